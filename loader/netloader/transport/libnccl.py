"""What is needed of NCCL's library, which torch for CUDA brings along: ten of its functions.

torch's own ProcessGroupNCCL is not used: its watchdog ends the process over an error of any group,
unless variables of the environment say otherwise when the group is made. Those would be read by the
model's groups too, and to change the environment while other threads read it is not safe.

Communicators are made without blocking, as NCCL calls it: a call returns before its work is done,
and `state` says how far it is. So nothing here waits for a peer, and a communicator whose peer
never comes can be aborted.

Nobody has run this against a real NCCL yet.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Final

from netloader.errors import TransportError

SUCCESS, IN_PROGRESS = 0, 7
"""Two of NCCL's results; all others are errors."""

UINT8: Final = 1
"""NCCL's number of the type."""

UNIQUE_ID_BYTES: Final = 128

LEAST_VERSION: Final = 21800
"""2.18: from then on send, receive and abort work in communicators that do not block."""

_LIBRARY: Final = "libnccl.so.2"
_MAGIC: Final = 0xCAFEBEEF
_CONFIG_VERSION: Final = 21700
_UNDEFINED: Final = -(1 << 31)


class NcclUniqueId(ctypes.Structure):
    """Where the ranks of a communicator meet. Passed by value."""

    _fields_ = (("internal", ctypes.c_byte * UNIQUE_ID_BYTES),)


class NcclConfig(ctypes.Structure):
    """`ncclConfig_t` as of 2.17; later versions take it and give their defaults to the rest."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint),
        ("version", ctypes.c_uint),
        ("blocking", ctypes.c_int),
        ("cga_cluster_size", ctypes.c_int),
        ("min_ctas", ctypes.c_int),
        ("max_ctas", ctypes.c_int),
        ("net_name", ctypes.c_char_p),
    )

    @classmethod
    def nonblocking(cls, max_ctas: int) -> NcclConfig:
        """For a communicator that takes at most so many blocks of the device, and never waits."""
        size = ctypes.sizeof(cls)
        return cls(size, _MAGIC, _CONFIG_VERSION, 0, _UNDEFINED, _UNDEFINED, max_ctas, None)


_POINTER = ctypes.c_void_p

FUNCTIONS: Final[Mapping[str, tuple[type, ...]]] = {
    "ncclGetVersion": (ctypes.POINTER(ctypes.c_int),),
    "ncclGetUniqueId": (ctypes.POINTER(NcclUniqueId),),
    "ncclCommInitRankConfig": (
        ctypes.POINTER(_POINTER),
        ctypes.c_int,
        NcclUniqueId,
        ctypes.c_int,
        ctypes.POINTER(NcclConfig),
    ),
    "ncclCommGetAsyncError": (_POINTER, ctypes.POINTER(ctypes.c_int)),
    "ncclSend": (
        *(_POINTER, ctypes.c_size_t, ctypes.c_int),
        *(ctypes.c_int, _POINTER, _POINTER),
    ),
    "ncclRecv": (
        *(_POINTER, ctypes.c_size_t, ctypes.c_int),
        *(ctypes.c_int, _POINTER, _POINTER),
    ),
    "ncclCommAbort": (_POINTER,),
    "ncclGetErrorString": (ctypes.c_int,),
}
"""Their arguments. All but the last return a result."""


class NcclLibrary:
    """NCCL's library, loaded. Every method raises `RuntimeError` for a result that is an error."""

    def __init__(self, load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> None:
        """Raises `TransportError` when there is none, or it is too old."""
        try:
            self._library = load(_LIBRARY)
            for name, arguments in FUNCTIONS.items():
                function = getattr(self._library, name)
                function.argtypes = arguments
                function.restype = ctypes.c_int
            self._library.ncclGetErrorString.restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise TransportError(f"no NCCL: {error}") from None
        version = ctypes.c_int()
        self._call("ncclGetVersion", ctypes.pointer(version))
        self.version = version.value
        if self.version < LEAST_VERSION:
            raise TransportError(f"NCCL {self.version} is older than {LEAST_VERSION}")

    def unique_id(self) -> bytes:
        """A new place to meet, which listens in this process."""
        made = NcclUniqueId()
        self._call("ncclGetUniqueId", ctypes.pointer(made))
        return bytes(made)

    def init(self, unique_id: bytes, rank: int, max_ctas: int) -> int:
        """Begin to make a communicator of two ranks on the current device. Returns its handle."""
        handle = _POINTER()
        self._call(
            "ncclCommInitRankConfig",
            ctypes.pointer(handle),
            2,
            NcclUniqueId.from_buffer_copy(unique_id),
            rank,
            ctypes.pointer(NcclConfig.nonblocking(max_ctas)),
        )
        return handle.value or 0

    def state(self, communicator: int) -> bool:
        """Whether the last call on a communicator is done."""
        found = ctypes.c_int()
        self._call("ncclCommGetAsyncError", communicator, ctypes.pointer(found))
        self._check("ncclCommGetAsyncError", found.value)
        return found.value == SUCCESS

    def send(self, communicator: int, data: int, nbytes: int, peer: int, stream: int) -> None:
        """Queue a send on a stream."""
        self._call("ncclSend", data, nbytes, UINT8, peer, communicator, stream)

    def recv(self, communicator: int, data: int, nbytes: int, peer: int, stream: int) -> None:
        """Queue a receive on a stream."""
        self._call("ncclRecv", data, nbytes, UINT8, peer, communicator, stream)

    def abort(self, communicator: int) -> None:
        """End what is under way, and free the communicator."""
        self._call("ncclCommAbort", communicator)

    def _call(self, name: str, *arguments: object) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, name: str, result: int) -> None:
        if result not in (SUCCESS, IN_PROGRESS):
            words = self._library.ncclGetErrorString(result)
            raise RuntimeError(f"{name}: {words.decode(errors='replace') if words else result}")
