"""What is particular to NCCL. What every transport has to do is in `conformance`, where a
library that plays NCCL runs; no test here needs a GPU, and none says what a GPU does."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.loader.support import until
from tests.loader.transport.carriers import open_pair
from tests.loader.transport.played_nccl import PlayedDevice

from netloader.transport import Rendezvous, TransportError, join
from netloader.transport.libnccl import (
    FUNCTIONS,
    LEAST_VERSION,
    UNIQUE_ID_BYTES,
    NcclConfig,
    NcclLibrary,
)
from netloader.transport.nccl import NEEDED_BYTES, CudaDevice, NcclBackend

LATE_S = 30.0


def test_what_lies_in_host_memory_is_copied_and_sent() -> None:
    device = PlayedDevice()
    pair = open_pair(NcclBackend(device))
    data, target = torch.arange(64, dtype=torch.uint8), torch.zeros(64, dtype=torch.uint8)
    device.host_memory.append(data)
    arriving = pair.replica.recv(target, 1)
    pair.source.send(data, 1).wait(LATE_S)
    arriving.wait(LATE_S)
    assert torch.equal(data, target)
    with pytest.raises(TransportError, match="NCCL receives in device memory only"):
        pair.replica.recv(data, 2)
    pair.abort()


def test_without_memory_for_its_buffers_no_group_opens() -> None:
    rich, poor = NcclBackend(PlayedDevice()), NcclBackend(PlayedDevice(NEEDED_BYTES - 1))
    rendezvous = Rendezvous("127.0.0.1", LATE_S)
    errors: list[TransportError] = []

    def open_at_the_source() -> None:
        try:
            rendezvous.open(rich)
        except TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=open_at_the_source)
    thread.start()
    with pytest.raises(TransportError, match="255 MiB of the device are free, and NCCL may take"):
        join("127.0.0.1", rendezvous.port, rendezvous.secret, poor, LATE_S)
    thread.join(LATE_S)
    (error,) = errors
    # It left before it came with its line, or after.
    assert re.match(
        "no NCCL group with the replica: |the replica left the rendezvous$", str(error)
    ), error


def test_what_the_ends_posted_must_agree() -> None:
    pair = open_pair(NcclBackend(PlayedDevice()))
    arriving = pair.replica.recv(torch.zeros(8, dtype=torch.uint8), 1)
    with pytest.raises(TransportError, match="9 bytes with tag 1 are next at this end, and 8"):
        pair.source.send(torch.zeros(9, dtype=torch.uint8), 1).wait(LATE_S)
    with pytest.raises(TransportError, match="the source has left"):
        arriving.wait(LATE_S)
    pair.abort()


def test_an_operation_that_fails_breaks_the_group() -> None:
    device = PlayedDevice()
    pair = open_pair(NcclBackend(device))
    arriving = pair.replica.recv(torch.zeros(8, dtype=torch.uint8), 1)
    pair.source.abort("enough")
    with pytest.raises(TransportError, match=r"receive of 8 bytes .*the source has left"):
        arriving.wait(LATE_S)
    until(lambda: not any(t.name == "netloader-nccl" for t in threading.enumerate()), LATE_S)


class LosableDevice(PlayedDevice):
    """A device that may be lost: nothing can be asked of it then."""

    lost = False

    def here(self) -> AbstractContextManager[object]:
        if self.lost:
            raise RuntimeError("the device is lost")
        return super().here()


def test_a_lost_device_ends_transfers_and_aborts_in_words() -> None:
    device = LosableDevice()
    pair = open_pair(NcclBackend(device))
    arriving = pair.replica.recv(torch.zeros(8, dtype=torch.uint8), 1)
    device.lost = True
    with pytest.raises(TransportError, match=r"receive of 8 bytes .*the device is lost"):
        arriving.wait(LATE_S)
    pair.abort()
    until(lambda: not any(t.name == "netloader-nccl" for t in threading.enumerate()), LATE_S)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_cuda_there_is_no_such_backend() -> None:
    with pytest.raises(TransportError, match="this torch has no CUDA device"):
        CudaDevice()


# The library, by a double of it


class Double:
    """A loaded library. Notes each call, and answers with `results`."""

    def __init__(self, version: int = LEAST_VERSION, **results: int) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.functions: dict[str, Any] = {}
        self._version = version
        self._results = results

    def load(self, name: str) -> Any:
        assert name == "libnccl.so.2"
        self.functions = {one: self._function(one) for one in FUNCTIONS}
        return SimpleNamespace(**self.functions)

    def _function(self, name: str) -> Callable[..., object]:
        def call(*arguments: Any) -> object:
            assert len(arguments) == len(FUNCTIONS[name])
            if name == "ncclGetErrorString":
                return b"no such thing"
            if name == "ncclGetVersion":
                arguments[0].contents.value = self._version
            elif name == "ncclCommInitRankConfig":
                arguments[0].contents.value = 77
            elif name == "ncclCommGetAsyncError":
                arguments[1].contents.value = self._results.get("state", 0)
            self.calls.append((name, *arguments))
            return self._results.get(name, 0)

        return call


def test_a_communicator_does_not_block_and_takes_few_blocks() -> None:
    double = Double(ncclCommInitRankConfig=7)  # It is under way.
    library = NcclLibrary(double.load)  # type: ignore[arg-type]
    unique_id = library.unique_id()
    assert len(unique_id) == UNIQUE_ID_BYTES
    assert library.init(bytes(range(128)), 1, 4) == 77
    _, _, ranks, meeting, rank, config = double.calls[-1]
    assert (ranks, bytes(meeting), rank) == (2, bytes(range(128)), 1)
    assert (config.contents.blocking, config.contents.max_ctas) == (0, 4)


def test_the_configuration_is_laid_out_as_nccl_2_17_has_it() -> None:
    made = NcclConfig.nonblocking(4)
    assert (made.size, made.magic, made.version) == (40, 0xCAFEBEEF, 21700)
    assert ctypes.sizeof(NcclConfig) == 40
    assert (made.cga_cluster_size, made.min_ctas, made.net_name) == (-(2**31), -(2**31), None)


def test_bytes_are_queued_as_uint8_on_the_stream() -> None:
    double = Double()
    library = NcclLibrary(double.load)  # type: ignore[arg-type]
    library.send(77, 0x1000, 5, 1, 0x2000)
    library.recv(77, 0x1000, 5, 0, 0x2000)
    library.abort(77)
    assert double.calls[-3:] == [
        ("ncclSend", 0x1000, 5, 1, 1, 77, 0x2000),
        ("ncclRecv", 0x1000, 5, 1, 0, 77, 0x2000),
        ("ncclCommAbort", 77),
    ]


@pytest.mark.parametrize(("state", "ready"), [(0, True), (7, False)])
def test_a_communicator_says_how_far_it_is(state: int, ready: bool) -> None:
    double = Double(state=state)
    assert NcclLibrary(double.load).state(77) is ready  # type: ignore[arg-type]


def test_an_error_has_the_librarys_words() -> None:
    library = NcclLibrary(Double(state=6, ncclSend=3).load)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="ncclSend: no such thing"):
        library.send(77, 0x1000, 5, 1, 0x2000)
    with pytest.raises(RuntimeError, match="ncclCommGetAsyncError: no such thing"):
        library.state(77)


def test_a_library_that_is_missing_or_old_is_refused() -> None:
    def missing(name: str) -> Any:
        raise OSError("cannot open shared object file")

    with pytest.raises(TransportError, match="no NCCL: cannot open"):
        NcclLibrary(missing)
    with pytest.raises(TransportError, match=r"no NCCL: .*ncclGetVersion"):
        NcclLibrary(lambda name: SimpleNamespace())  # type: ignore[arg-type, return-value]
    with pytest.raises(TransportError, match="NCCL 21703 is older than 21800"):
        NcclLibrary(Double(21703).load)  # type: ignore[arg-type]


# What others say of the same functions


def declared_by_vllm() -> dict[str, int]:
    """How many arguments NCCL's functions have, by vLLM's own table of them."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    path = Path(found.origin).parent / "distributed/device_communicators/pynccl_wrapper.py"
    calls = (
        node.args
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Function"
    )
    return {
        name.value: len(arguments.elts)
        for name, _, arguments in calls
        if isinstance(name, ast.Constant) and isinstance(arguments, ast.List)
    }


def test_vllm_calls_the_same_functions_with_as_many_arguments() -> None:
    theirs = declared_by_vllm()
    both = FUNCTIONS.keys() & theirs.keys()
    assert {"ncclGetUniqueId", "ncclSend", "ncclRecv", "ncclCommAbort"} <= both
    assert {name: len(FUNCTIONS[name]) for name in both} == {name: theirs[name] for name in both}


def test_torch_has_what_is_used_of_it() -> None:
    for name in ("is_available", "current_device", "mem_get_info", "current_stream", "device"):
        assert callable(getattr(torch.cuda, name))
    assert callable(torch.cuda.Stream)
    assert {"record", "query"} <= set(dir(torch.cuda.Event))
