"""A home for each test module, the random models, and servers that always end."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.e2e.models import make_llama


def pytest_configure() -> None:
    """Let SIGTERM unwind like Ctrl-C: its default would leave the servers behind."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


_LONGEST = ("mixture", "serve", "tensor_parallel", "failures", "cases", "architectures")
"""Files that take minutes, the longest first. Two run at a time, and none shall be left over."""


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
    """VLLM_CACHE_ROOT. Looking into an architecture takes vLLM ten seconds: once is enough."""
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def home(vllm_cache: Path) -> Iterator[Path]:
    """HOME, logs, reports and the same-host directory of one module's servers.

    Not below pytest's own folder: a ZeroMQ or Unix socket path there would grow too long.
    """
    with tempfile.TemporaryDirectory(prefix="netloader-e2e-") as folder:
        home = Path(folder)
        (home / "vllm").symlink_to(vllm_cache)
        yield home
