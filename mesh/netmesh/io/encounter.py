"""What happens when somebody connects to an address where a member may be: a value for each end.

`whois.py` has the single questions. Here they are asked in order, until one tells what is there.
Everything blocks for seconds: never call it from the gossip thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import zmq

from netmesh.address import Address
from netmesh.core.messages import NOBODY, Busy, Observe, State
from netmesh.core.records import BUCKETS, Generation, MemberId
from netmesh.core.wire import Codec
from netmesh.errors import RemoteProtocolError, VersionMismatch
from netmesh.io.security import SocketSecurity
from netmesh.io.whois import dealer_of, key_in_use, mechanism, own_context

STEP_S: Final = 1.0
"""Seconds that each question may take: a round trip, and a lost packet sent again."""

_PAST_THE_END: Final = BUCKETS
"""A page from here on is empty: the smallest question that a member answers."""


class Meeting(StrEnum):
    """How the attempt to meet a member ended."""

    MEMBER = "a member of this mesh answered"
    REFUSED = "nobody listens there"
    UNREACHABLE = "nothing came back"
    STRANGER = "another program listens there"
    KEY_ONLY_HERE = "it has no cluster key"
    KEY_ONLY_THERE = "it has a cluster key, and there is none here"
    OTHER_KEY = "it does not accept the cluster key"
    OTHER_MESH = "it belongs to a mesh of another name"
    OTHER_VERSION = "it speaks another version of the protocol"
    SILENT = "it takes connections and does not answer"
    UNASKED = "there was no time left to ask"


@dataclass(frozen=True, slots=True)
class Encounter:
    """What was found at one address."""

    address: str
    """`host:port`, as it was asked."""
    meeting: Meeting
    detail: str = ""
    """What the system or the peer said, for people."""
    mesh: str = ""
    """Name of the mesh that the member belongs to, as far as it is known."""
    member: MemberId | None = None
    """The address that the member itself goes by; None where nobody of a known mesh answered."""
    generation: Generation | None = None
    size: int | None = None
    """How many members it knows."""
    protocol: int | None = None
    """The newest version of the protocol that it speaks."""
    ahead_s: float | None = None
    """Its clock less ours, in seconds; None when it does not say."""
    unsure_s: float = 0.0
    """By how much `ahead_s` may be wrong: half of the round trip."""


def meet(
    address: Address,
    meshes: Mapping[str, SocketSecurity],
    deadline: float,
    *,
    step_s: float = STEP_S,
    monotonic: Callable[[], float] = time.monotonic,
    wall_s: Callable[[], float] = time.time,
) -> Encounter:
    """Connect to one address and find out who is there, until `deadline` of `monotonic`.

    `meshes` has the keys by name of mesh: first the one that is looked for, then others to which a
    member may belong instead. Either all have keys, or none has.
    """

    def left() -> float:
        return max(0.001, min(step_s, deadline - monotonic()))

    where, wanted = str(address), next(iter(meshes))
    if monotonic() >= deadline:
        return Encounter(where, Meeting.UNASKED)
    try:
        return _meet(address, where, wanted, meshes, left, wall_s)
    except zmq.ZMQError as error:  # mostly for lack of descriptors
        return Encounter(where, Meeting.UNASKED, str(error))


def _meet(
    address: Address,
    where: str,
    wanted: str,
    meshes: Mapping[str, SocketSecurity],
    left: Callable[[], float],
    wall_s: Callable[[], float],
) -> Encounter:
    try:
        spoken = mechanism(address, left())
    except TimeoutError:
        return Encounter(where, Meeting.UNREACHABLE, "no answer to a connect")
    except ConnectionRefusedError:
        return Encounter(where, Meeting.REFUSED)
    except OSError as error:
        return Encounter(where, Meeting.UNREACHABLE, error.strerror or str(error))
    keys = meshes[wanted].enabled
    if not spoken:
        return Encounter(where, Meeting.STRANGER)
    if keys != (spoken == b"CURVE"):
        return Encounter(where, Meeting.KEY_ONLY_HERE if keys else Meeting.KEY_ONLY_THERE)
    for mesh, security in meshes.items():
        ring = key_in_use(address, security, left()) if keys else 0
        if ring is None:
            continue
        found = _ask(address, mesh, security, ring, left(), wall_s)
        if found.meeting is Meeting.SILENT and not keys:
            continue  # A member of another mesh says nothing to a name that is not its own.
        if mesh != wanted and found.meeting is Meeting.MEMBER:
            return Encounter(where, Meeting.OTHER_MESH, mesh=mesh, member=found.member)
        return found
    return Encounter(where, Meeting.OTHER_KEY if keys else Meeting.SILENT)


def _ask(
    address: Address,
    mesh: str,
    security: SocketSecurity,
    ring: int,
    timeout_s: float,
    wall_s: Callable[[], float],
) -> Encounter:
    """Ask for an empty page of the table, which every member of the mesh answers."""
    where, codec = str(address), Codec(mesh)
    with own_context() as context, dealer_of(context, address) as dealer:
        security.apply_client(dealer, ring)
        dealer.connect(f"tcp://{address}")
        asked_s = wall_s()
        try:
            question = Observe(NOBODY, Generation(0), _PAST_THE_END)
            dealer.send_multipart(list(codec.encode(question)), zmq.DONTWAIT)
        except zmq.Again:
            return Encounter(where, Meeting.SILENT, mesh=mesh)
        if not dealer.poll(int(timeout_s * 1000)):
            return Encounter(where, Meeting.SILENT, mesh=mesh)
        frames, heard_s = dealer.recv_multipart(), wall_s()
    try:
        answer = codec.decode(frames)
    except VersionMismatch as error:
        return Encounter(where, Meeting.OTHER_VERSION, str(error), mesh)
    except RemoteProtocolError as error:
        return Encounter(where, Meeting.STRANGER, str(error), mesh)
    if not isinstance(answer, State | Busy):
        return Encounter(where, Meeting.STRANGER, f"it answers with {type(answer).__name__}", mesh)
    said = answer if isinstance(answer, State) else None
    clock_ms = None if said is None else said.clock_ms
    return Encounter(
        where,
        Meeting.MEMBER,
        mesh=mesh,
        member=answer.sender,
        generation=answer.generation,
        size=None if said is None else said.size,
        protocol=codec.newest(frames),
        ahead_s=None if clock_ms is None else clock_ms / 1000 - (asked_s + heard_s) / 2,
        unsure_s=abs(heard_s - asked_s) / 2,
    )
