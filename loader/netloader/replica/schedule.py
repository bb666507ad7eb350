"""Which chunk from which source next: decisions of a pull from many sources. Pure.

Every source has a window of chunks in flight, and gets the next chunk when it has delivered one. So
each source contributes what it really delivers; work is not dealt out beforehand. Two rules keep
the slowest source from deciding when the pull ends:

    pick       a chunk is not asked of a source that would deliver it later than the others would
               be done with it and with everything else that is left
    snubbed    in the end game, when nothing is left to ask for, a source is dropped whose
               unfinished chunks the idle ones could bring in less than half the time that it will
               still need

A chunk is in flight from one source at a time. Chunks that a lost or dropped source leaves
unfinished go back and are asked for first; chunks that it delivered stay.

While other replicas pull as well (`Supply.shared`), three more rules let them serve each other:

    rarest      of what a source has, the chunk that the fewest others have or are getting
    near        what another replica on this host has or is getting is not fetched over the network
    few         of each source little more is asked for than the one chunk that is arriving
                (`SwarmSettings`): chunks must arrive soon, so that they can be served

Time is passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from netloader.replica.inflight import InFlight, request_window
from netloader.replica.pieces.one_link import OneLink
from netloader.replica.pieces.piece_picker import PiecePicker
from netloader.replica.pieces.supply import Stock, Supply
from netloader.replica.settings import PullSettings


@dataclass(frozen=True, slots=True)
class _Peer:
    """A source that is being pulled from."""

    stock: Stock
    """Chunks that the source has."""
    in_flight: InFlight

    @property
    def available(self) -> set[int]:
        return self.stock.has

    def delivers(self, nbytes: int, now: float) -> float | None:
        """Seconds until the source has delivered `nbytes` more bytes; None when nothing is known
        yet."""
        expected = self.in_flight.expected(now)
        return None if not expected else (self.in_flight.nbytes + nbytes) * expected


class Schedule:
    """Hands out chunks to sources and keeps track of them."""

    def __init__(
        self,
        sizes: Sequence[int],
        chunk_bytes: int,
        staged: Collection[int],
        settings: PullSettings,
        name: str = "",
    ) -> None:
        """`sizes` are the bytes of each chunk, by id; `staged` the ids that need staging memory.
        `name` is what others call this replica, if it serves while it loads: replicas that pull
        together ask in different orders. Without it chunks are asked for by id."""
        self._picker = PiecePicker(sizes, staged, name)
        swarm = settings.swarm
        self._supply = Supply(self._picker, swarm.near_patience_s)
        self._link = OneLink(name, len(self._picker.sizes), swarm.near_s)
        self._chunk_bytes = chunk_bytes
        self._window = settings.window
        self._end_game = settings.end_game
        self._swarm = swarm
        self._max_staged = max(
            settings.window.min_chunks, settings.window.staging_bytes // chunk_bytes
        )
        self._least = min(sizes, default=0)
        self._peers: dict[str, _Peer] = {}
        self._patience_s = settings.end_game.first_patience_s

    @property
    def complete(self) -> bool:
        """Whether every chunk has arrived."""
        return self._picker.complete

    @property
    def done(self) -> frozenset[int]:
        """Chunks that have arrived."""
        return self._picker.done

    def join(self, source: str, available: Iterable[int], now: float, *, near: str = "") -> None:
        """Add a source that is ready to be asked for the chunks in `available`. `near`: what the
        source itself has as `name`, if it is on this host, so that its bytes do not cross the
        host's link."""
        self._supply.join(source, self._known(available), near)
        self._link.meet(self._supply.neighbourhood)
        self._peers[source] = _Peer(self._supply.of(source), InFlight(now))

    def have(self, source: str, chunks: Iterable[int]) -> None:
        """Note that a source has more chunks than before."""
        if source in self._peers:
            self._supply.have(source, self._known(chunks))

    def coming(self, source: str, chunks: Iterable[int], now: float) -> None:
        """Note that a source has asked others for these chunks."""
        if source in self._peers:
            self._supply.coming(source, self._known(chunks), now)

    def gone(self, source: str, chunks: Iterable[int]) -> None:
        """Note that a source offers these chunks no longer, or does not get them. Those that were
        asked of it stay in flight: a source that cannot send one ends the session."""
        if source in self._peers:
            self._supply.gone(source, self._known(chunks))

    def offers(self, source: str, chunk: int) -> bool:
        """Whether `source` has said that it has a chunk, and not taken that back."""
        peer = self._peers.get(source)
        return peer is not None and chunk in peer.available

    def pick(self, source: str, now: float) -> int | None:
        """The chunk to ask `source` for next; None when there is nothing now, or the source has
        left."""
        peer = self._peers.get(source)
        if peer is None or len(peer.in_flight) >= self._window.max_chunks:
            return None
        # A source without work may be asked for any chunk, however large.
        room = self.window(source) - peer.in_flight.nbytes if peer.in_flight else math.inf
        chunk = self._next_of(peer, now) if room >= self._least else None
        if chunk is None:
            return None
        size = self._picker.sizes[chunk]
        if size > room:
            return None
        if not self._worth_it(peer, chunk, now):
            return None
        self._picker.ask(chunk)
        self._supply.taken(chunk)
        peer.in_flight.ask(chunk, size, chunk in self._picker.staged, now)
        return chunk

    def window(self, source: str) -> float:
        """Bytes that `source` may have in flight."""
        in_flight = self._peers[source].in_flight
        if self._supply.shared:
            pace = in_flight.seconds_per_byte
            return self._chunk_bytes + (self._swarm.ahead_s / pace if pace else 0.0)
        return request_window(in_flight.seconds_per_byte, self._chunk_bytes, self._window)

    def interested(self, source: str) -> bool:
        """False when chunks are wanted and `source` has none of them (BitTorrent's word)."""
        peer = self._peers.get(source)
        return peer is None or not self._picker.wanted or bool(peer.stock.useful)

    def arrived(self, source: str, chunk: int, now: float) -> None:
        """Note that `source` has delivered a chunk, which was verified."""
        self._peers[source].in_flight.arrived(chunk, now)
        self._picker.arrived(chunk)

    def leave(self, source: str) -> tuple[int, ...]:
        """Remove `source`. Returns its unfinished chunks, which others get next.

        Call this only once nothing from `source` can still be written to where these chunks belong.
        """
        peer = self._peers.pop(source, None)
        if peer is None:
            return ()
        self._supply.leave(source)
        self._link.meet(self._supply.neighbourhood)
        unfinished = tuple(sorted(peer.in_flight.chunks))
        self._picker.give_back(unfinished)
        self._supply.wanted_again(unfinished)
        return unfinished

    def invalidate(self) -> None:
        """Fetch the arrived chunks again: the promise that verified them is void."""
        done = self._picker.done
        self._picker.invalidate()
        self._supply.wanted_again(done)

    def snubbed(self, now: float) -> str | None:
        """A source to drop, because idle sources would bring its chunks in flight much sooner.

        None when there is no such source, or while there is still something else to ask for.
        """
        idle = [peer for peer in self._peers.values() if not peer.in_flight]
        if any(self._next_of(peer, now) is not None for peer in idle):
            return None
        for name, slow in self._peers.items():
            able = [peer for peer in idle if slow.in_flight.within(peer.available)]
            if slow.in_flight and able and self._much_sooner(able, slow, now):
                return name
        return None

    def check(self) -> None:
        """Raise `AssertionError` when a chunk is lost or counted twice. For tests."""
        self._picker.check(chunk for p in self._peers.values() for chunk in p.in_flight.chunks)

    def _known(self, chunks: Iterable[int]) -> list[int]:
        """Without numbers that no chunk has: a source may say anything."""
        return [chunk for chunk in chunks if 0 <= chunk < len(self._picker.sizes)]

    def _next_of(self, peer: _Peer, now: float) -> int | None:
        """The next chunk for a source, within its share of staging memory."""
        picker, stock = self._picker, peer.stock
        staging = not picker.staged or self._may_stage(peer)
        spares = not stock.near and self._supply.neighbourhood and not self._outruns(peer)
        if staging and not spares:
            return picker.next_of(stock.useful)

        def allowed(chunk: int) -> bool:
            if not staging and chunk in picker.staged:
                return False
            if not spares:
                return True
            return not (self._supply.is_near(chunk, now) or self._link.waits(chunk, now))

        return picker.next_of(stock.useful, allowed)

    def _may_stage(self, peer: _Peer) -> bool:
        """Whether there is staging memory for one more chunk from this source."""
        staged = sum(other.in_flight.staged for other in self._peers.values())
        share = max(1, self._max_staged // len(self._peers))
        return staged < self._max_staged and peer.in_flight.staged < share

    def _outruns(self, peer: _Peer) -> bool:
        """Whether a source elsewhere is faster than one of this host: then the link is not what is
        scarce."""
        pace = peer.in_flight.seconds_per_byte
        return pace is not None and any(
            other.stock.near and (other.in_flight.seconds_per_byte or 0.0) > pace
            for other in self._peers.values()
        )

    def _worth_it(self, peer: _Peer, chunk: int, now: float) -> bool:
        """Whether `peer` would deliver this chunk before the others are done with everything.

        The source that can deliver the chunk first always gets it, so something is always handed
        out.
        """
        size = self._picker.sizes[chunk]
        its = peer.delivers(size, now)
        others = [
            (other.in_flight.nbytes, expected)
            for other in self._peers.values()
            if other is not peer
            # What is near is not compared with what is not: it is not asked for there.
            and bool(other.stock.near) == bool(peer.stock.near)
            and chunk in other.available
            and (expected := other.in_flight.expected(now))
        ]
        if its is None or not others:
            return True
        in_flight = sum(nbytes for nbytes, _ in others)
        together = (self._picker.wanted_bytes + in_flight) / sum(1 / each for _, each in others)
        # Together the others are quick, but a chunk comes from one of them.
        soonest = min((nbytes + size) * expected for nbytes, expected in others)
        return its <= max(together, soonest)

    def _much_sooner(self, idle: list[_Peer], slow: _Peer, now: float) -> bool:
        """Whether `idle` sources would bring the chunks in flight from `slow` much sooner than
        `slow` will."""
        limits, owed = self._end_game, slow.in_flight
        silent_s = owed.silent_for(now)
        # A source that has not delivered yet counts as being as fast as the one to be replaced.
        rates = [peer.in_flight.seconds_per_byte or owed.seconds_per_byte for peer in idle]
        known = [seconds_per_byte for seconds_per_byte in rates if seconds_per_byte]
        if not known:
            if silent_s <= self._patience_s:
                return False
            self._patience_s *= 2  # Perhaps all are slow, and one needs the time.
            return True
        theirs = owed.nbytes / sum(1 / each for each in known)
        delivers = slow.delivers(0, now)
        its = silent_s if delivers is None else max(silent_s, delivers - silent_s)
        return its > limits.times_sooner * theirs + limits.seconds_sooner
