"""Unmodified vllm-ascend over the emulation: workers, a model, upstream's Netloader, two ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ascend.llama import storage_digests
from tests.ascend.processes import START_S, Process, ProcessError
from tests.e2e.models import make_llama
from tests.free_ports import free_port

pytestmark = pytest.mark.timeout(600)

UPSTREAM = {
    "VLLM_PLUGINS": "a_fakecann,ascend,ascend_kv_connector,ascend_model,ascend_model_loader,"
    "ascend_service_profiling"
}
"""All plugins except ours: these tests run other people's code over our emulation."""

NZ = {"VLLM_ASCEND_ENABLE_NZ": "2"}
"""vllm-ascend converts the weights of linear layers after it loaded them."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("model") / "llama", seed=1, megabytes=24)


@contextmanager
def worker(
    home: Path, name: str, *, env: Mapping[str, str] | None = None, **given: Any
) -> Iterator[Process]:
    """A worker that has its device and no model yet."""
    environment = UPSTREAM | dict(env or {})
    arguments = {"port": free_port()} | given
    with Process("tests.ascend.npu_worker", home, name, env=environment, **arguments) as process:
        process.say(do="init_device")
        yield process


def loaded(process: Process) -> Process:
    """Wait for its device and load the model."""
    process.answer(START_S)
    process.ask("load_model", timeout_s=START_S)
    return process


@pytest.mark.parametrize("fractal", [False, True], ids=["ND", "NZ"])
def test_a_worker_loads_what_is_in_storage(model: Path, tmp_path: Path, fractal: bool) -> None:
    env = NZ if fractal else {}
    given = {"model": str(model), "load_format": "auto"}
    with worker(tmp_path, "worker", env=env, **given) as process:
        loaded(process)
        assert process.ask("kind") == "vllm_ascend.worker.worker.NPUWorker"
        assert process.ask("digests") == storage_digests(model)
        assert ("FRACTAL_NZ" in process.ask("formats")) == fractal
        assert process.ask("profile") > 0


@pytest.mark.parametrize("fractal", [False, True], ids=["ND", "NZ"])
def test_upstreams_netloader_pulls_from_upstreams(
    model: Path, tmp_path: Path, fractal: bool
) -> None:
    env = NZ if fractal else {}
    port = free_port()
    server = {"LISTEN_PORT": port}
    client = {"SOURCE": [{"device_id": 0, "sources": [f"127.0.0.1:{port}"]}]}
    wanted = storage_digests(model)
    given = {"model": str(model), "load_format": "netloader"}
    weights, hidden = model / "model.safetensors", model / "hidden"
    with ExitStack() as stack:
        start = {"env": env, **given}
        source = stack.enter_context(worker(tmp_path, "source", extra=server, **start))
        replica = stack.enter_context(worker(tmp_path, "replica", extra=client, **start))
        loaded(source)
        assert source.ask("digests") == wanted
        # From here on nobody can load from storage.
        weights.rename(hidden)
        stack.callback(hidden.rename, weights)
        loaded(replica)
        assert replica.ask("digests") == wanted
        assert ("FRACTAL_NZ" in replica.ask("formats")) == fractal


def test_without_its_file_a_model_does_not_load(model: Path, tmp_path: Path) -> None:
    """The test above relies on this: no worker loads from a file that was renamed."""
    weights, hidden = model / "model.safetensors", model / "hidden"
    given = {"model": str(model), "load_format": "auto"}
    with worker(tmp_path, "worker", **given) as process:
        weights.rename(hidden)
        try:
            process.answer(START_S)
            with pytest.raises(ProcessError):
                process.ask("load_model", timeout_s=START_S)
        finally:
            hidden.rename(weights)


def test_two_ranks_share_a_model(model: Path, tmp_path: Path) -> None:
    port = free_port()
    given = {"model": str(model), "load_format": "auto", "port": port, "ranks": 2}
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(worker(tmp_path, f"rank{rank}", rank=rank, **given))
            for rank in range(2)
        ]
        for process in ranks:
            process.answer(START_S)
        for do in ("load_model", "profile"):
            for process in ranks:
                process.say(do=do)
            answers = [process.answer(START_S) for process in ranks]
        # After the last all_reduce both have the same.
        assert answers[0] == answers[1] > 0
        for rank, process in enumerate(ranks):
            assert process.ask("digests") == storage_digests(model, rank, 2)
