"""How a source answers replicas. Runs in the source's thread, and waits there only to end all
sessions at once.

Replicas share the source. Sessions are limited, all of a worker's bytes go through one throttle,
and a session that wastes its place loses it to replicas that wait (`policy/eviction.py`). A replica
that receives other bytes than promised complains, and the source checks whether its weights are
unchanged (`audit.py`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import assert_never

from netloader.errors import ProtocolError
from netloader.protocol import messages
from netloader.protocol.ranges import chunks_in, ranges
from netloader.source.audit import Audit
from netloader.source.availability import Availability
from netloader.source.dealing import Dealer
from netloader.source.listener import ControlConnection, Listener
from netloader.source.observer import SourceObserver
from netloader.source.offer import CurrentOffer, Offer
from netloader.source.opening import Opener
from netloader.source.policy import admission, telling
from netloader.source.policy.sessions import ServedSession, Sessions
from netloader.source.session import MAX_QUOTE, Session, SessionOutcome
from netloader.source.throttle import Bucket
from netloader.system import memory

_log = logging.getLogger(__name__)

_CLOSERS = 8
"""Threads that end sessions side by side."""

Answer = tuple[messages.Accept | messages.Refuse, bytes | None]
"""A message and its attachment."""


class Dispatch:
    """Belongs to the source's thread, except where a member says otherwise."""

    def __init__(
        self,
        listener: Listener,
        current: CurrentOffer,
        opener: Opener,
        audit: Audit,
        observer: SourceObserver,
    ) -> None:
        self._listener = listener
        self._current = current
        self._opener = opener
        self._audit = audit
        self._observer = observer
        self._settings = opener.settings
        self._sessions: Sessions[Session, ControlConnection] = Sessions(opener.settings)
        self._dealer = Dealer(self._say_offers)
        self._complaints: Counter[str] = Counter()
        self._manifests = Bucket(opener.settings.manifest_rate, 0.0)
        self.served = 0
        """Number of replicas being served, as last told to the observer. Any thread may read
        it."""

    @property
    def callers(self) -> list[ControlConnection]:
        """The connections that control sessions."""
        return [one.caller for one in self._sessions.served]

    def hear(self, caller: ControlConnection, frames: list[bytes]) -> None:
        """Act on one message from a replica."""
        try:
            message, _ = messages.decode(frames)
        except ProtocolError as error:
            self._complain("a peer sent what is no control message: %s", error)
            # The message may be a later version's: a refusal now beats a replica left waiting.
            reason = f"my version {messages.VERSION} has no such message"
            self._listener.reply(caller, messages.Refuse(code="version", reason=reason))
            return
        try:
            match message:
                case messages.Hello():
                    self._greet(caller, message)
                case messages.Want() | messages.Have() | messages.Done() | messages.Bye():
                    self._steer(caller, message)
                case _:
                    self._complain("a replica sent a %s, which only sources send", message.type)
        except Exception as error:  # noqa: BLE001
            # One replica's request must not stop the service for the others.
            _log.exception("a %s request failed", message.type)
            if isinstance(message, messages.Hello):
                reason = f"the source failed: {type(error).__name__}"
                self._listener.reply(caller, messages.Refuse(code="not-ready", reason=reason))

    def _complain(self, what: str, about: object) -> None:
        """Log what goes wrong with a peer, the 1st, 2nd, 4th, 8th ... time: it may never end."""
        self._complaints[what] += 1
        count = self._complaints[what]
        if count & (count - 1) == 0:
            _log.warning(f"{what} (%d so far)", about, count)

    def session_ended(self, session: Session, outcome: SessionOutcome) -> None:
        """Act on the end of a session's thread."""
        one = self._release(session)
        if one is not None and outcome.reason:
            # The session ended by itself, and its replica does not know yet.
            self._say_bye(one, outcome.reason)
        self._sessions.remove(session.id)
        held_s = session.usage().held_s
        self._observer.ended(outcome.how, session.transport, session.sent_bytes, held_s)
        _log_end(session, outcome)

    def tell_gains(self, now: float) -> float | None:
        """Tell replicas which chunks have come since they were told last. One that does not read
        is told later. Returns the seconds until the next call; None when nothing waits to be
        told."""
        self._dealer.tell()
        next_s = math.inf
        for one in self._sessions.served:
            session, available = one.session, one.session.available
            if available is None:
                continue
            due_s = telling.due_in_s(len(available) - session.told, now - session.told_at)
            # What is on this host is not to be fetched over the network meanwhile.
            if session.near or due_s <= 0:
                self._tell(one, available, now)
            else:
                next_s = min(next_s, due_s)
        return next_s if math.isfinite(next_s) else None

    def _tell(
        self,
        one: ServedSession[Session, ControlConnection],
        available: Availability,
        now: float,
    ) -> None:
        session = one.session
        while gained := available.since(session.told)[: messages.MAX_IDS]:
            have = messages.Have(session=session.id, chunks=gained)
            if not self._listener.reply(one.caller, have):
                return
            session.told += len(gained)
            session.told_at = now
        self._tell_plans(one, available)

    def _tell_plans(
        self, one: ServedSession[Session, ControlConnection], available: Availability
    ) -> None:
        """Tell a replica on this host what this worker is getting from others."""
        session = one.session
        if not session.near:
            return
        coming, gone, count = available.plans(session.told_plans)
        if coming or gone:
            # The latest matter most, and what is left out costs a fetch at most.
            coming, gone = coming[-messages.MAX_IDS :], gone[-messages.MAX_IDS :]
            have = messages.Have(session=session.id, chunks=(), coming=coming, gone=gone)
            if not self._listener.reply(one.caller, have):
                return
        session.told_plans = count

    def hold_all(self) -> list[Session]:
        """Let no session begin to send another chunk. Returns the sessions, also those that are
        ending: some may still send."""
        served = [one.session for one in self._sessions.served]
        for session in served:
            session.hold()
        return served + self._sessions.ending

    def end(self, session: Session, reason: str) -> None:
        """End one session, and tell its replica why."""
        one = self._release(session)
        if one is not None:
            self._say_bye(one, reason)
        session.abort(reason)

    def resume_all(self, offer: Offer) -> None:
        """Let held sessions go on with an offer of all that theirs promised; end the others."""
        if self._current.now is not offer:
            return  # It was withdrawn meanwhile, and perhaps sessions were held once more.
        for one in self._sessions.served:
            if not one.session.held:
                continue  # It was opened for this offer.
            if offer.available is None and one.session.promised == offer.promised:
                one.session.resume(offer)
            else:
                self.end(one.session, "other weights are offered now")

    def end_all(self, reason: str) -> bool:
        """Abort all sessions, including those that are ending. Returns False when one may still
        read weights."""
        for one in self._sessions.served:
            self._release(one.session)
            self._say_bye(one, reason)
        sessions = self._sessions.ending
        if not sessions:
            return True
        # In parallel: closing a Gloo group takes some ten milliseconds of waiting.
        with ThreadPoolExecutor(_CLOSERS, thread_name_prefix="netloader-close") as pool:
            list(pool.map(lambda session: session.abort(reason), sessions))
        deadline = time.monotonic() + self._settings.close_timeout_s
        return all(session.quiet(max(0.0, deadline - time.monotonic())) for session in sessions)

    def _greet(self, caller: ControlConnection, hello: messages.Hello) -> None:
        answer, attachment = self._answer(caller, hello)
        if isinstance(answer, messages.Refuse):
            self._observer.refused(answer.code)
        heard = False
        try:
            heard = self._listener.reply(caller, answer, attachment)
        finally:
            if isinstance(answer, messages.Accept) and not heard:
                one = self._sessions.find(answer.session, caller)
                if one is not None:
                    self._release(one.session)
                    one.session.abort("the replica is gone")

    def _answer(self, caller: ControlConnection, hello: messages.Hello) -> Answer:
        if self._listener.retired(caller):
            return messages.Refuse(code="keys", reason="my keys have changed: connect again"), None
        offer = self._current.now
        admitted = admission.admit(
            hello, offer, self._opener.generation(), self._settings.fabric or ""
        )
        if isinstance(admitted, messages.Refuse):
            if admitted.code == "manifest" and isinstance(offer, Offer):
                if hello.manifest == offer.empty_manifest_hash:
                    return admitted.model_copy(update={"loaded": dict(offer.loaded)}), None
                return admitted, self._manifest(offer)
            return admitted, None
        full = self._sessions.full() or self._listener.lack()
        if full is not None:
            self._make_room()
            again_s = self._settings.retry_after_s
            return messages.Refuse(code="busy", reason=full, retry_after_s=again_s), None
        backend = admitted.backend(hello.backend)
        assert backend is not None, "admitted"
        try:
            has = chunks_in(hello.have, len(admitted.chunks))
        except ProtocolError as error:
            return messages.Refuse(code="version", reason=str(error)), None
        try:
            session, accept = self._opener.open(hello.replica, admitted, backend, near=hello.near)
        except OSError as error:
            return self._without_port(error), None
        self._sessions.add(session, caller)
        if hello.serves and admitted.available is None:
            offered = self._dealer.open(session, has)
            accept = accept.model_copy(update={"have": ranges(offered), "deals": True})
        self._publish_count()
        _log.debug("serving %s to %.*r by %s", session.what, MAX_QUOTE, hello.replica, backend.name)
        return accept, b"".join(admitted.digests)

    def _without_port(self, error: OSError) -> messages.Refuse:
        """The refusal where no port is left for a session's data."""
        why = f"no port for its data can be listened on: {error.strerror or error}"
        self._complain("cannot serve a replica: %s", why)
        again_s = self._settings.retry_after_s
        return messages.Refuse(code="busy", reason=why, retry_after_s=again_s)

    def _manifest(self, offer: Offer) -> bytes | None:
        """The manifest that shows a replica how its own differs, unless too many were sent
        lately."""
        data = offer.encoded_manifest
        return data if self._manifests.take(len(data), time.monotonic()) else None

    def _make_room(self) -> None:
        """End a session that wastes its place, since another replica waits for one."""
        wasteful = self._sessions.wasteful()
        if wasteful is not None:
            one, reason = wasteful
            self._release(one.session)
            self._say_bye(one, reason)
            one.session.evict(reason)

    def _steer(
        self,
        caller: ControlConnection,
        message: messages.Want | messages.Have | messages.Done | messages.Bye,
    ) -> None:
        one = self._sessions.find(message.session, caller)
        if one is None:
            bye = messages.Bye(session=message.session, reason="no such session")
            self._listener.reply(caller, bye)
            return
        match message:
            case messages.Want():
                wrong = one.session.want(message.chunks)
                if wrong is not None:
                    self._release(one.session)
                    self._say_bye(one, wrong)
                    one.session.abort(wrong)
                else:
                    self._dealer.has(one.session, message.chunks)
            case messages.Have():
                count = one.session.chunks
                self._dealer.has(one.session, [it for it in message.chunks if it < count])
            case messages.Done():
                self._release(one.session)
                one.session.finish()
            case messages.Bye():
                if message.bad_chunk is not None:
                    self._suspect(one.session, message.bad_chunk)
                self._release(one.session)
                one.session.abort(f"the replica gave up: {message.reason!r:.{MAX_QUOTE}}")

    def _suspect(self, session: Session, chunk: int) -> None:
        """Act on a replica's complaint that a chunk has other bytes than promised."""
        # An accusation costs a reading, so it counts only for chunks that the replica can have
        # received and that are still served.
        offer = session.offer
        if offer is None or self._current.now is not offer or not session.has_sent(chunk):
            _log.info(
                "%.*r complains about chunk %d without ground", MAX_QUOTE, session.replica, chunk
            )
            return
        self._audit.accuse(session.replica, offer, chunk)

    def _release(self, session: Session) -> ServedSession[Session, ControlConnection] | None:
        """Free the place of a session that is over, before its thread has noticed."""
        one = self._sessions.release(session.id)
        if one is not None:
            self._dealer.leave(session)
            self._publish_count()
        return one

    def _say_bye(self, one: ServedSession[Session, ControlConnection], reason: str) -> None:
        """Tell a replica why its session has ended."""
        bye = messages.Bye(session=one.session.id, reason=reason[: messages.MAX_TEXT])
        self._listener.reply(one.caller, bye)

    def _say_offers(self, session_id: str, have: messages.Have) -> bool:
        """Returns False when the replica does not read now."""
        one = self._sessions.get(session_id)
        return one is None or self._listener.reply(one.caller, have)

    def _publish_count(self) -> None:
        try:
            self._observer.sessions(len(self._sessions))
        except Exception:  # noqa: BLE001
            # A failure to publish the number of sessions must not end the service.
            _log.exception("could not publish the number of sessions")
        self.served = len(self._sessions)


def _log_end(session: Session, outcome: SessionOutcome) -> None:
    """The one line of a session: what, to whom, how much, how fast, and how it ended."""
    nbytes, seconds = session.sent_bytes, session.seconds
    match outcome.how:
        case "done":
            level, end = logging.INFO, ""
        case "aborted":
            # By the replica, which says why where it matters, or by a withdrawal.
            level, end = logging.INFO, f", then it was ended: {outcome.reason}"
        case "evicted":
            level, end = logging.WARNING, f", then it lost its place: it {outcome.reason}"
        case "broken":
            level, end = logging.WARNING, f", then it failed: {outcome.reason}"
        case _:
            assert_never(outcome.how)
    _log.log(
        level,
        "served %s to %.*r by %s: %s in %.2f s (%.2f GB/s)%s",
        session.what,
        MAX_QUOTE,
        session.replica,
        session.transport,
        memory.text(nbytes),
        seconds,
        nbytes / max(1e-3, seconds) / 1e9,
        end,
    )
