"""The mode in which our threads use CUDA while the model captures its graphs."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from netloader.transport import cudart

MAPS = """\
7f10a2000000-7f10a20b1000 r-xp 00000000 00:1b 1234   /env/nvidia/lib/libcudart.so.12
7f10a20b1000-7f10a22b0000 ---p 000b1000 00:1b 1234   /env/nvidia/lib/libcudart.so.12
7f10b0000000-7f10b0021000 rw-p 00000000 00:00 0
7f10c0000000-7f10c0021000 r-xp 00000000 00:1b 77     /usr/lib/libcuda.so.1
""".splitlines()


class PlayedRuntime:
    """The contract of CUDA's function: the mode behind the pointer changes places with the
    thread's."""

    GLOBAL, RELAXED = 0, 2

    def __init__(self, answers: int = 0) -> None:
        self.mode = self.GLOBAL
        self.loaded = ""
        self._answers = answers

    def cudaThreadExchangeStreamCaptureMode(self, mode: ctypes._Pointer[ctypes.c_int]) -> int:
        if not self._answers:
            self.mode, mode.contents.value = mode.contents.value, self.mode
        return self._answers

    def load(self, path: str) -> ctypes.CDLL:
        self.loaded = path
        return cast(ctypes.CDLL, self)


def exchange_of(runtime: PlayedRuntime) -> Callable[[object], int]:
    found = cudart.find(MAPS, runtime.load)
    assert not isinstance(found, str), found
    return found


def test_a_thread_gets_the_mode_in_which_it_spoils_no_capture() -> None:
    runtime = PlayedRuntime()
    cudart.relax(exchange_of(runtime))
    assert runtime.mode == runtime.RELAXED


def test_the_library_is_the_one_that_torch_has_loaded() -> None:
    runtime = PlayedRuntime()
    exchange_of(runtime)
    assert runtime.loaded == "/env/nvidia/lib/libcudart.so.12"


def test_a_refusal_says_what_may_fail_and_what_helps(caplog: pytest.LogCaptureFixture) -> None:
    runtime = PlayedRuntime(answers=999)
    with caplog.at_level(logging.WARNING):
        cudart.relax(exchange_of(runtime))
    assert runtime.mode == runtime.GLOBAL
    assert "reports 999" in caplog.text and "--enforce-eager" in caplog.text


def test_a_process_without_the_runtime_is_told_so() -> None:
    assert cudart.find([]) == "no libcudart is loaded"


def test_a_runtime_without_the_function_is_told_so() -> None:
    found = cudart.find(MAPS, lambda path: cast(ctypes.CDLL, SimpleNamespace()))
    assert "cudaThreadExchangeStreamCaptureMode" in str(found)
