"""Workers that start in the same moment, while nobody has their weights."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.hosts import Host, Mesh, Row
from tests.e2e.models import make_llama
from tests.e2e.servers import SMALL_CHUNKS, Server
from tests.loader.support import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SLOW_S = 3.0
"""Seconds that opening a file of weights takes, where storage is slow."""

_tests = itertools.count()


@pytest.fixture
def hosts(home: Path) -> Iterator[list[Host]]:
    number = next(_tests)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Host(f"t{number}{name}", home)) for name in "abcd"]


@pytest.fixture(scope="module")
def model(home: Path) -> Path:
    make_llama(home / "model", seed=1, megabytes=60)
    return home / "model"


@contextlib.contextmanager
def loading(
    mesh: Mesh, hosts: list[Host], model: Path, slow_s: float = SLOW_S, **extra: object
) -> Iterator[list[Future[Row]]]:
    """All of them begin at once."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        yield [pool.submit(mesh.load, model, extra, host=host, slow_s=slow_s) for host in hosts]


def reader_of(hosts: list[Host]) -> Host:
    """Waits until one of them reads storage."""
    until(lambda: any(host.reads for host in hosts))
    return next(host for host in hosts if host.reads)


def test_few_read_slow_storage_and_the_others_get_it_from_them(
    hosts: list[Host], mesh: Mesh, model: Path
) -> None:
    with loading(mesh, hosts, model) as loads:
        rows = [load.result() for load in loads]

    assert sum(row.report["origin"] == "storage" for row in rows) in (1, 2)
    truth = hosts[0].truth(model)
    assert all(row.tensors == truth for row in rows)


def test_another_one_reads_when_the_reader_is_killed(
    hosts: list[Host], mesh: Mesh, model: Path
) -> None:
    with loading(mesh, hosts, model) as loads:
        reader = reader_of(hosts)
        reader.kill()
        left = [load for host, load in zip(hosts, loads, strict=True) if host is not reader]
        rows = [load.result() for load in left]

    assert any(row.report["origin"] == "storage" for row in rows)
    assert any(row.report["origin"] == "peers" for row in rows)
    truth = next(host for host in hosts if host is not reader).truth(model)
    assert all(row.tensors == truth for row in rows)


@pytest.mark.soak
def test_four_servers_answer_alike(home: Path, model: Path) -> None:
    """Real `vllm serve` processes, started in one moment, with no setting of ours."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                Server(f"together{number}", model, home, report=True, env=SMALL_CHUNKS)
            )
            for number in range(4)
        ]
        for server in servers:
            server.wait_ready()
        answers = {server.complete("Everybody starts at the same moment") for server in servers}
        tensors = [server.sha256() for server in servers]
        origins = [server.report()["origin"] for server in servers]

    assert len(answers) == 1
    assert all(each == tensors[0] for each in tensors)
    assert origins.count("storage") in (1, 2)
