"""Device memory: copies in every direction, a total that ends, bounds that hold."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
import torch_npu

from tests.ascend.processes import START_S, Process, ProcessError
from tests.free_ports import free_port

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.int64, torch.bool]

MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    torch.npu.empty_cache()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_survive_the_way_through_two_devices(dtype: torch.dtype) -> None:
    host = (torch.arange(60) % 2).reshape(5, 12).to(dtype)
    first = host.to("npu:0")
    second = first.to("npu:1")
    assert second.device == torch.device("npu:1")
    assert torch.equal(second.cpu(), host)


def test_pinned_memory_is_known_as_pinned() -> None:
    host = torch.arange(16).pin_memory()
    assert host.is_pinned()
    assert not torch.arange(16).is_pinned()
    assert torch.equal(host.to("npu:0", non_blocking=True).cpu(), host)


def test_free_memory_falls_and_comes_back() -> None:
    before, total = torch.npu.mem_get_info()
    tensor = torch.empty(64 * MEBIBYTE, dtype=torch.uint8, device="npu:0")
    held, _ = torch.npu.mem_get_info()
    assert held <= before - 64 * MEBIBYTE
    del tensor
    torch.npu.empty_cache()
    after, _ = torch.npu.mem_get_info()
    assert after == before <= total == 64 << 30


def test_memory_ends_at_the_total_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    used = (64 << 30) - torch.npu.mem_get_info()[0]
    monkeypatch.setenv("FAKECANN_MEMORY_MB", str(used // MEBIBYTE + 64))
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(100 * MEBIBYTE, dtype=torch.uint8, device="npu:0")
    # What still fits does.
    torch.empty(32 * MEBIBYTE, dtype=torch.uint8, device="npu:0")


def test_a_copy_that_leaves_an_allocation_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    cann = ctypes.CDLL("libascendcl.so")
    copy = cann.aclrtMemcpy
    copy.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t]
    copy.argtypes += [ctypes.c_int]
    address = ctypes.c_void_p()
    assert cann.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(1000), 0) == 0
    host = bytes(1001)
    assert copy(address, 1000, host, 1000, 1) == 0
    assert copy(address, 1001, host, 1001, 1) != 0
    assert "1001 bytes at" in capfd.readouterr().err
    # The direction has to be the one that was named.
    assert copy(address, 1000, host, 1000, 2) != 0
    assert cann.aclrtFree(address) == 0
    assert cann.aclrtFree(address) != 0


def test_a_tensor_that_leaves_its_storage_is_refused() -> None:
    storage = torch.zeros(8, device="npu:0").untyped_storage()
    tensor = torch.empty(0, device="npu:0").set_(storage, 0, (8,), (1,))
    storage.resize_(16)
    with pytest.raises(IndexError, match="needs 8 elements of its storage, which has 4"):
        tensor + 1


def test_converting_a_view_of_a_flat_arena_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    torch.npu.config.allow_internal_format = True
    # Too large for torch_npu to take it from a larger piece that it has.
    arena = torch.zeros(32 * MEBIBYTE, dtype=torch.uint8, device="npu:0")
    weight = arena.view(torch.bfloat16).view(4096, 4096)
    # torch_npu describes the storage: its number of elements, each of the view's two bytes.
    with pytest.raises(RuntimeError):
        torch_npu.npu_format_cast(weight, 29)
    assert f"Identity reads: {64 * MEBIBYTE} bytes at" in capfd.readouterr().err


def test_host_code_that_runs_past_the_end_is_stopped(tmp_path: Path) -> None:
    arguments = {"port": free_port(), "rank": 0, "ranks": 1, "timeout_s": 60.0}
    # Otherwise a small tensor shares a piece of 2 MiB with others, and may overrun into them.
    env = {"PYTORCH_NO_NPU_MEMORY_CACHING": "1"}
    with Process("tests.ascend.rank", tmp_path, "wild", env=env, **arguments) as process:
        process.ask("pid", timeout_s=START_S)
        with pytest.raises(ProcessError):
            process.ask("write_past_the_end")
        assert process.status() < 0
        assert "out of the allocation of" in process.output()
