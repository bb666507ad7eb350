"""What most tests of the loader need."""

from __future__ import annotations

from tests.loader.support.caller import Caller, calling, hello
from tests.loader.support.ends import (
    GENERATION,
    MEMORY,
    OPEN,
    SILENT_S,
    SMALL_WINDOW,
    StreamEnded,
    candidate,
    ended_by,
    identity,
    keys,
    listening,
    offer_of,
    place,
    pull_from,
    pull_into,
    serving,
    source_process,
    start_source,
)
from tests.loader.support.leftovers import descriptors, leaves_nothing, settle, threads
from tests.loader.support.tampering import (
    OnSend,
    SendLog,
    Stuck,
    TamperedBackend,
    TamperedGroup,
    cut_after,
    wrong_byte_in,
)
from tests.loader.support.toys import CHUNK, Toy, big_weights, equal, is_zero, toy_weights
from tests.loader.support.waiting import until

__all__ = [
    "CHUNK",
    "GENERATION",
    "MEMORY",
    "OPEN",
    "SILENT_S",
    "SMALL_WINDOW",
    "Caller",
    "OnSend",
    "SendLog",
    "StreamEnded",
    "Stuck",
    "TamperedBackend",
    "TamperedGroup",
    "Toy",
    "big_weights",
    "calling",
    "candidate",
    "cut_after",
    "descriptors",
    "ended_by",
    "equal",
    "hello",
    "identity",
    "is_zero",
    "keys",
    "leaves_nothing",
    "listening",
    "offer_of",
    "place",
    "pull_from",
    "pull_into",
    "serving",
    "settle",
    "source_process",
    "start_source",
    "threads",
    "toy_weights",
    "until",
    "wrong_byte_in",
]
