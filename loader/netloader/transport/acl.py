"""The functions of CANN and HCCL by which a transfer group works, straight from the C libraries.

torch_npu calls all of them but one, in ways that a group beside a serving model cannot have: see
`hccl.py`. The one is `aclrtDeviceGetStreamPriorityRange`, by which our streams get the lowest
priority; without it theirs is torch_npu's. The libraries are those that torch_npu has loaded, and
ctypes releases the GIL during every call.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from functools import cache
from typing import ClassVar, Final

_ROOT_INFO_BYTES: Final = 4108
"""`HCCL_ROOT_INFO_BYTES`."""

UINT8: Final = 7
"""`HCCL_DATA_TYPE_UINT8`."""

_FP32: Final = 4
"""`HCCL_DATA_TYPE_FP32`."""

_SUM: Final = 0
"""`HCCL_REDUCE_SUM`."""

_COMPLETE: Final = 1
"""`ACL_EVENT_RECORDED_STATUS_COMPLETE`."""

_FAST_LAUNCH_AND_SYNC: Final = 3
"""Flags of a stream: torch_npu makes its own with the same."""

_STOP_ON_FAILURE: Final = 1
"""`ACL_STOP_ON_FAILURE`: what lies behind a failed operation does not run, so no event lies."""

_EVENT_SYNC: Final = 1
"""`ACL_EVENT_SYNC`: streams may wait for the event."""

_RELAXED: Final = 2
"""`ACL_MODEL_RI_CAPTURE_MODE_RELAXED`."""

_NO_FEATURE: Final = 207000
"""`ACL_ERROR_RT_FEATURE_NOT_SUPPORT`: the device has no captures, so none can be spoilt."""

_Handle = ctypes.c_void_p

_log = logging.getLogger(__name__)


class AclError(RuntimeError):
    """CANN or HCCL reports an error."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} reports {code}")


def set_device(index: int) -> None:
    """The calling thread's device. Raises `AclError`."""
    _call(_acl(), "aclrtSetDevice", index)


def copy_beside_captures() -> None:
    """Let the calling thread copy while another captures a graph. Never raises.

    vLLM Ascend captures in the mode `global`, in which a synchronous copy by any thread spoils the
    capture: vLLM would not start. torch_npu copies so. Our threads take no part in a graph, so
    theirs is the mode `relaxed`, as HCCL's own while it copies. A CANN without graphs has no such
    function.
    """
    try:
        exchange = getattr(_acl(), "aclmdlRICaptureThreadExchangeMode", None)
    except OSError as error:
        _log.warning("no captures are looked after: %s", error)
        return
    if exchange is None:
        return
    code: int = exchange(ctypes.byref(ctypes.c_int(_RELAXED)))
    if code not in (0, _NO_FEATURE):
        _log.warning(
            "aclmdlRICaptureThreadExchangeMode reports %d: if the model captures graphs while it "
            "serves, that may fail; start it with --enforce-eager then",
            code,
        )


class AclStream:
    """A stream of the current device that nobody else has."""

    def __init__(self) -> None:
        """Raises `AclError` when the device has none left."""
        self._handle = _Handle()
        priority = _lowest_priority()
        _call(
            _acl(),
            "aclrtCreateStreamWithConfig",
            ctypes.byref(self._handle),
            ctypes.c_uint32(priority),
            ctypes.c_uint32(_FAST_LAUNCH_AND_SYNC),
        )
        _call(_acl(), "aclrtSetStreamFailureMode", self._handle, ctypes.c_uint64(_STOP_ON_FAILURE))

    @property
    def handle(self) -> ctypes.c_void_p:
        return self._handle

    def wait_for(self, event: AclEvent) -> None:
        """What follows runs after the event. Raises `AclError`."""
        _call(_acl(), "aclrtStreamWaitEvent", self._handle, event.handle)

    def destroy(self) -> None:
        """End the stream, whatever is on it. Raises `AclError`."""
        _call(_acl(), "aclrtDestroyStreamForce", self._handle)


class AclEvent:
    """A point of a stream: the one that it was last recorded at."""

    def __init__(self, stream: ctypes.c_void_p) -> None:
        """Record it on a stream. Raises `AclError`."""
        self._handle = _Handle()
        create = "aclrtCreateEventWithFlag"
        _call(_acl(), create, ctypes.byref(self._handle), ctypes.c_uint32(_EVENT_SYNC))
        # Not when the process ends: CANN may be gone by then.
        weakref.finalize(self, _acl().aclrtDestroyEvent, self._handle).atexit = False
        _call(_acl(), "aclrtRecordEvent", self._handle, stream)

    @property
    def handle(self) -> ctypes.c_void_p:
        return self._handle

    def reached(self) -> bool:
        """Whether the stream has got there. Raises `AclError` when it has failed before."""
        status = ctypes.c_int()
        _call(_acl(), "aclrtQueryEventStatus", self._handle, ctypes.byref(status))
        return status.value == _COMPLETE


class _CommConfig(ctypes.Structure):
    """The first version of `HcclCommConfig`. Later ones are longer, and HCCL tells by `size`."""

    _fields_: ClassVar = [
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint64),
        ("buffer_mib", ctypes.c_uint32),
        ("deterministic", ctypes.c_uint32),
        ("later", ctypes.c_char * 4096),
    ]


def root_info() -> bytes:
    """How other ranks find this one, for one communicator. Raises `AclError`."""
    info = ctypes.create_string_buffer(_ROOT_INFO_BYTES)
    _call(_hccl(), "HcclGetRootInfo", info)
    return info.raw


class Communicator:
    """A communicator of HCCL between two ranks."""

    def __init__(self, root: bytes, rank: int, buffer_mib: int) -> None:
        """Meet the rank that made `root`, on the current device. Waits for it as long as
        `HCCL_CONNECT_TIMEOUT`, 120 s by default. HCCL keeps two buffers of `buffer_mib`. Raises
        `AclError`."""
        config = _CommConfig(
            size=_CommConfig.later.offset,
            magic=0xF0F0F0F0,
            version=1,
            buffer_mib=buffer_mib,
            deterministic=0xFFFFFFFF,  # As the process has it.
        )
        self._handle = _Handle()
        _call(
            _hccl(),
            "HcclCommInitRootInfoConfig",
            ctypes.c_uint32(2),
            ctypes.create_string_buffer(root, _ROOT_INFO_BYTES),
            ctypes.c_uint32(rank),
            ctypes.byref(config),
            ctypes.byref(self._handle),
        )

    def start(
        self, sends: bool, address: int, count: int, kind: int, peer: int, stream: AclStream
    ) -> None:
        """Put a transfer of device memory on a stream: so many elements of HCCL's type of this
        number. Raises `AclError`."""
        _call(
            _hccl(),
            "HcclSend" if sends else "HcclRecv",
            _Handle(address),
            ctypes.c_uint64(count),
            ctypes.c_int(kind),
            ctypes.c_uint32(peer),
            self._handle,
            stream.handle,
        )

    def add_up(self, address: int, stream: AclStream) -> None:
        """Put on a stream that all ranks replace one float32 by their sum. Raises `AclError`."""
        _call(
            _hccl(),
            "HcclAllReduce",
            _Handle(address),
            _Handle(address),
            ctypes.c_uint64(1),
            ctypes.c_int(_FP32),
            ctypes.c_int(_SUM),
            self._handle,
            stream.handle,
        )

    def check(self) -> None:
        """Raises `AclError` when HCCL has noticed an error of the communicator."""
        error = ctypes.c_int()
        name = "HcclGetCommAsyncError"
        _call(_hccl(), name, self._handle, ctypes.byref(error))
        if error.value:
            raise AclError(name, error.value)

    def destroy(self) -> None:
        """End its transfers. Raises `AclError`."""
        _call(_hccl(), "HcclCommDestroy", self._handle)


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    code: int = getattr(library, name)(*arguments)
    if code:
        raise AclError(name, code)


def _lowest_priority() -> int:
    """The least urgent priority of a stream: the highest number, 0 where all are alike."""
    least, greatest = ctypes.c_int(), ctypes.c_int()
    try:
        ask = _acl().aclrtDeviceGetStreamPriorityRange
    except AttributeError:
        return 0
    return max(0, least.value) if ask(ctypes.byref(least), ctypes.byref(greatest)) == 0 else 0


@cache
def _acl() -> ctypes.CDLL:
    return ctypes.CDLL("libascendcl.so")


@cache
def _hccl() -> ctypes.CDLL:
    return ctypes.CDLL("libhccl.so")
