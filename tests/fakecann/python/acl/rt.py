"""The one function of pyACL that vllm-ascend names when it is imported."""

from __future__ import annotations

import ctypes


def memcpy(to: int, room: int, source: int, nbytes: int, kind: int) -> int:
    """Copy `nbytes` between two addresses. Returns CANN's code, 0 for success."""
    # torch_npu has loaded the library already, and only it knows where it lies.
    function = ctypes.CDLL("libascendcl.so").aclrtMemcpy
    function.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t),
        ctypes.c_int,
    ]
    return int(function(to, room, source, nbytes, kind))
