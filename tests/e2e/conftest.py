"""A home for each test module, the random models, and servers that always end."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.e2e.hosts import Host, Mesh
from tests.e2e.models import make_llama
from tests.e2e.selector import Selector
from tests.loader.trees import write


def pytest_configure() -> None:
    """Let SIGTERM unwind like Ctrl-C: its default would leave the servers behind."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


_LONGEST = ("serve", "mixture", "tensor_parallel", "failures", "architectures", "layouts", "hub")
"""The longest files, the longest first. Two run at a time, and none shall be left over."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file is kept."""
    order = {f"test_{name}.py": number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random models of one config with different weights: `one` and `two`."""
    folder = tmp_path_factory.mktemp("models")
    make_llama(folder / "one", seed=1, megabytes=120)
    make_llama(folder / "two", seed=2, megabytes=120)
    return folder


@pytest.fixture(scope="session")
def vllm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VLLM_CACHE_ROOT of all that runs. Looking into an architecture takes vLLM fifteen seconds of
    a core: once is enough."""
    base = tmp_path_factory.getbasetemp()
    # Below `base.parent` each of pytest-xdist's processes has its own.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "vllm"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one`, `two` and `three`: small models of one config with different weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("one", "two", "three"), start=1):
        make_llama(folder / name, seed=seed, megabytes=4)
    return folder


@pytest.fixture(scope="module")
def home(vllm_cache: Path) -> Iterator[Path]:
    """HOME, logs, reports and the same-host directory of one module's servers.

    Not below pytest's own folder: a ZeroMQ or Unix socket path there would grow too long.
    """
    with tempfile.TemporaryDirectory(prefix="netloader-e2e-") as folder:
        home = Path(folder)
        (home / "vllm").symlink_to(vllm_cache)
        yield home


@pytest.fixture(scope="module")
def host(home: Path) -> Iterator[Host]:
    with Host("host", home) as host:
        yield host


_numbers = itertools.count()


@pytest.fixture
def mesh(host: Host, home: Path) -> Iterator[Mesh]:
    mesh = Mesh(home / f"mesh{next(_numbers)}", host)
    yield mesh
    mesh.close()


@pytest.fixture(scope="module")
def vllm(home: Path) -> Iterator[Selector]:
    with Selector(home) as found:
        yield found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write(folder / "model.safetensors", {"a": b"first"})
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    for at in range(3):
        write(folder / f"{at}.safetensors", {f"{at}.{name}": b"other" for name in "abc"})
    return folder
