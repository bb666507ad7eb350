"""The source: listens for replicas and hands each a session of its own.

One thread owns the sockets and decides; sessions have threads of their own (`session.py`). Without
an offer (still loading, or weights that cannot be served) every request is refused with the reason.

Replicas share what there is: sessions are limited, all of a worker's bytes go through one throttle,
and a session that does nothing with its place loses it to those that wait (`eviction.py`). A
session's place is free as soon as the source has read or said that it is over. Its thread may need
longer, so those that are ending are limited as well. A replica that was promised other bytes than
it got says so, and the source looks whether its weights are still what they were (`audit.py`).
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import zmq

from netloader.errors import ProtocolError
from netloader.identity.identity import known
from netloader.protocol import messages
from netloader.source import admission
from netloader.source.audit import CHANGED, Audit
from netloader.source.eviction import Usage, waste
from netloader.source.inbox import Inbox
from netloader.source.listener import Caller, Listener
from netloader.source.session import Offer, Session
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Bucket, Throttle
from netloader.system import affinity
from netloader.transport import Rendezvous
from netmesh import SocketSecurity

_log = logging.getLogger(__name__)

_CLOSERS = 8

_MAX_QUOTE = 500
"""Characters of what a replica says that end up in a log."""


@dataclass
class _Client:
    """A replica being served: its session beside the connection that may speak for it."""

    session: Session
    caller: Caller
    seen: Usage
    """What it had done when its use of its place was last judged."""


@dataclass(frozen=True)
class _Close:
    """Stop the source's thread."""


@dataclass(frozen=True)
class _Withdraw:
    """Abort all sessions; `done` is set once none reads weights any more."""

    reason: str
    done: threading.Event


@dataclass(frozen=True)
class _Rekey:
    """The cluster keys have changed."""

    security: SocketSecurity


@dataclass(frozen=True)
class _Ended:
    """A session's thread has nothing more to do."""

    session: str
    problem: str | None


class Source:
    """Serves one model's weights to replicas."""

    def __init__(
        self,
        listener: Listener,
        generation: Callable[[], int],
        settings: SourceSettings,
        *,
        throttle: Throttle | None = None,
        on_sessions: Callable[[int], None] = lambda count: None,
        on_changed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Take over `listener`, which belongs to the source's thread from now on.

        `generation` says who this process is now (the mesh may change it once).
        `on_sessions` is told the number of sessions whenever it changes, from the source's thread.
        `throttle` limits the bytes per second; a worker's sources share one. None: no limit.
        `on_changed` is called, from a thread of its own, when this source has found that its
        weights are no longer those it promised, and has withdrawn: with the reason.
        """
        self._generation = generation
        self._settings = settings
        self._on_sessions = on_sessions
        self._throttle = throttle
        self._on_changed = on_changed
        self._offer: Offer | None = None
        self._unready = "the source is still loading"
        self._clients: dict[str, _Client] = {}
        self._ending: dict[str, Session] = {}
        """Over for their replicas, which are told nothing more; their threads have not ended."""
        self._new_keys: SocketSecurity | None = None
        self._rekey_at = 0.0
        self._manifests = Bucket(settings.manifest_rate, 0.0)
        self._audit = Audit(lambda: self._offer, self._changed, settings.audit_pause_s)
        self._listener = listener
        self._inbox: Inbox[_Close | _Withdraw | _Rekey | _Ended] = Inbox()
        self._thread = threading.Thread(target=self._run, name="netloader-source", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """`host:port` for replicas."""
        return self._listener.endpoint

    @property
    def port(self) -> int:
        """Of the endpoint."""
        return self._listener.port

    @property
    def sessions(self) -> int:
        """Replicas being served now. Sessions that are over but for their threads do not count."""
        return len(self._clients)

    def serve(self, offer: Offer) -> None:
        """Hand out these weights from now on."""
        self._offer = offer

    def withdraw(self, reason: str) -> None:
        """Stop handing out weights: new requests are refused, sessions under way are aborted.

        When this returns no session reads the weights any more: they may be changed or unmapped.
        """
        ended = self._withdraw(reason)
        if not (self._audit.settle(self._settings.close_timeout_s) and ended):
            _log.warning("a session is slow to end: weights may be read while they change")

    def rekey(self, security: SocketSecurity) -> None:
        """Let replicas in by these keys from now on. Sessions under way are not touched.

        Only for a source that had a key from the start.
        """
        self._inbox.post(_Rekey(security))

    def close(self) -> None:
        """End all sessions and stop listening. Takes at most about a second. Idempotent."""
        self._inbox.post(_Close())
        self._thread.join(2 * self._settings.close_timeout_s)

    def _withdraw(self, reason: str) -> bool:
        """Refuse requests and end sessions. False when one may still read weights."""
        self._unready = reason
        self._offer = None
        done = threading.Event()
        return not self._inbox.post(_Withdraw(reason, done)) or done.wait(
            2 * self._settings.close_timeout_s
        )

    def _changed(self, offer: Offer) -> None:
        """Called by the audit's thread: these are not the weights that were promised."""
        if self._offer is not offer:
            return  # The worker has withdrawn meanwhile: it knows.
        self._withdraw(CHANGED)
        try:
            self._on_changed(CHANGED)
        except Exception:  # noqa: BLE001
            # Nothing is served any more, published or not.
            _log.exception("could not publish that the weights have changed")

    def _run(self) -> None:
        affinity.step_aside(background=True)
        self._listener.watch(self._inbox)
        try:
            while True:
                for caller, frames in self._listener.wait(
                    None if self._new_keys is None else self._settings.rekey_pause_s
                ):
                    self._handle_request(caller, frames)
                obeyed = [self._obey(word) for word in self._inbox.take()]
                if not all(obeyed):
                    return
                self._change_keys()
                self._listener.keep([client.caller for client in self._clients.values()])
        finally:
            self._inbox.close()
            self._end_sessions("the source closes")
            self._listener.close()

    def _obey(self, word: _Close | _Withdraw | _Rekey | _Ended) -> bool:
        """One word from another thread. False: stop."""
        match word:
            case _Close():
                return False
            case _Withdraw():
                if self._end_sessions(word.reason):
                    word.done.set()
            case _Rekey():
                self._new_keys, self._rekey_at = word.security, 0.0
            case _Ended():
                self._forget(word.session, word.problem)
        return True

    def _change_keys(self) -> None:
        """Let in by the keys that were last heard of, now or when that is possible again."""
        if self._new_keys is None or time.monotonic() < self._rekey_at:
            return
        try:
            self._listener.rekey(self._new_keys)
        except (zmq.ZMQError, OSError) as error:
            _log.warning("replicas are still let in by the keys from before: %s", error)
            self._rekey_at = time.monotonic() + self._settings.rekey_pause_s
            return
        except ValueError as error:
            _log.error("%s", error)
        self._new_keys = None

    def _end_sessions(self, reason: str) -> bool:
        """Abort all sessions, also those that are ending. False when one may still read weights."""
        for client in list(self._clients.values()):
            self._release(client)
            self._say_bye(client, reason)
        sessions = list(self._ending.values())
        if not sessions:
            return True
        # Side by side: closing a Gloo group takes some ten milliseconds of waiting.
        with ThreadPoolExecutor(_CLOSERS, thread_name_prefix="netloader-close") as pool:
            list(pool.map(lambda session: session.abort(reason), sessions))
        deadline = time.monotonic() + self._settings.close_timeout_s
        return all(session.quiet(max(0.0, deadline - time.monotonic())) for session in sessions)

    def _abort(self, client: _Client, reason: str) -> None:
        self._release(client)
        self._say_bye(client, reason)
        client.session.abort(reason)

    def _say_bye(self, client: _Client, reason: str) -> None:
        """Tell a replica why its session ends."""
        bye = messages.Bye(session=client.session.id, reason=reason[: messages.MAX_TEXT])
        self._listener.reply(client.caller, bye)

    def _release(self, client: _Client) -> None:
        """Free the place of a session that is over, before its thread has noticed."""
        del self._clients[client.session.id]
        self._ending[client.session.id] = client.session
        self._tell()

    def _handle_request(self, caller: Caller, frames: list[bytes]) -> None:
        try:
            message, _ = messages.decode(frames)
        except ProtocolError as error:
            _log.warning("a peer sent what is no control message: %s", error)
            # It may be a later version's: better refused now than left waiting.
            self._listener.reply(
                caller,
                messages.Refuse(
                    code="version", reason=f"my version {messages.VERSION} has no such message"
                ),
            )
            return
        try:
            match message:
                case messages.Hello():
                    answer, attachment = self._answer(caller, message)
                    heard = self._listener.reply(caller, answer, attachment)
                    if isinstance(answer, messages.Accept) and not heard:
                        self._abort(self._clients[answer.session], "the replica is gone")
                case messages.Want() | messages.Done() | messages.Bye():
                    self._steer(caller, message)
                case _:
                    _log.warning("a replica sent a %s, which only sources send", message.type)
        except Exception as error:  # noqa: BLE001
            # One replica's request must not end the service for the others.
            _log.exception("a %s request failed", message.type)
            if isinstance(message, messages.Hello):
                self._listener.reply(
                    caller,
                    messages.Refuse(
                        code="not-ready", reason=f"the source failed: {type(error).__name__}"
                    ),
                )

    def _answer(
        self, caller: Caller, hello: messages.Hello
    ) -> tuple[messages.Accept | messages.Refuse, bytes | None]:
        if self._listener.retired(caller):
            return messages.Refuse(code="keys", reason="my keys have changed: connect again"), None
        offer = self._offer
        refusal = admission.refusal(hello, offer, self._generation(), self._unready)
        if refusal is not None or offer is None:
            return refusal or messages.Refuse(code="not-ready", reason=self._unready), (
                self._manifest(offer)
                if offer is not None and refusal is not None and refusal.code == "manifest"
                else None
            )
        busy = self._busy()
        if busy is not None:
            return messages.Refuse(
                code="busy", reason=busy, retry_after_s=self._settings.retry_after_s
            ), None
        rendezvous = Rendezvous(self._listener.host, self._settings.rendezvous_timeout_s)
        try:
            session = Session(
                secrets.token_hex(16),
                hello.replica,
                offer,
                rendezvous,
                self._settings,
                self._ended,
                throttle=self._throttle,
            )
            accept = messages.Accept(
                session=session.id,
                generation=self._generation(),
                identity=offer.identity.digest,
                manifest=offer.manifest_hash,
                attributes=dict(offer.attributes),
                content=known(offer.identity.content),
                computed=dict(offer.computed),
                host=rendezvous.host,
                port=rendezvous.port,
                secret=rendezvous.secret,
                have=((0, len(offer.chunks)),),
                message_bytes=session.message_bytes,
            )
            session.start()
        except BaseException:
            rendezvous.close()
            raise
        self._clients[session.id] = _Client(session, caller, session.usage())
        self._tell()
        _log.info(
            "serving %.*r: %d bytes", _MAX_QUOTE, hello.replica, offer.weights.manifest.nbytes
        )
        return accept, b"".join(offer.digests)

    def _manifest(self, offer: Offer) -> bytes | None:
        """What shows a replica how its manifest differs, unless too many have been sent lately."""
        data = offer.encoded_manifest
        return data if self._manifests.take(len(data), time.monotonic()) else None

    def _busy(self) -> str | None:
        """Why no further replica can be served now, if that is so."""
        if len(self._clients) >= self._settings.max_sessions:
            self._make_room()
            return f"all {self._settings.max_sessions} sessions are taken"
        if len(self._ending) >= self._settings.max_ending:
            return f"{len(self._ending)} sessions are still ending"
        return None

    def _make_room(self) -> None:
        """End a session that does nothing with its place, since somebody waits for it."""
        for client in self._clients.values():
            now = client.session.usage()
            wasted = waste(client.seen, now, self._settings.timeout_s)
            if wasted is not None:
                self._abort(client, wasted)
                return
            if now.at - client.seen.at >= self._settings.timeout_s:
                client.seen = now

    def _steer(self, caller: Caller, message: messages.Want | messages.Done | messages.Bye) -> None:
        client = self._clients.get(message.session)
        if client is None or client.caller != caller:
            self._listener.reply(
                caller, messages.Bye(session=message.session, reason="no such session")
            )
            return
        match message:
            case messages.Want():
                wrong = client.session.want(message.chunks)
                if wrong is not None:
                    self._abort(client, wrong)
            case messages.Done():
                self._release(client)
                client.session.finish()
            case messages.Bye():
                if message.bad_chunk is not None:
                    self._suspect(client.session, message.bad_chunk)
                self._release(client)
                client.session.abort(f"the replica gave up: {message.reason!r:.{_MAX_QUOTE}}")

    def _suspect(self, session: Session, chunk: int) -> None:
        """A replica has found other bytes than it was promised."""
        offer = self._offer
        # An accusation costs a reading: only of what the replica can have received, and of what is
        # still served.
        if offer is None or offer is not session.offer or not session.has_sent(chunk):
            _log.info(
                "%.*r complains about chunk %d without ground", _MAX_QUOTE, session.replica, chunk
            )
            return
        self._audit.accuse(session.replica, offer, chunk)

    def _ended(self, session: Session, problem: str | None) -> None:
        """Called by a session's thread. Nobody listens when the source has closed."""
        self._inbox.post(_Ended(session.id, problem))

    def _tell(self) -> None:
        try:
            self._on_sessions(len(self._clients))
        except Exception:  # noqa: BLE001
            # Not being able to say how many sessions there are must not end the service.
            _log.exception("could not publish the number of sessions")

    def _forget(self, session_id: str, problem: str | None) -> None:
        client = self._clients.get(session_id)
        if client is not None:
            # It ended by itself: the replica has not heard of it.
            self._release(client)
            if problem is not None:
                self._say_bye(client, problem)
        session = self._ending.pop(session_id)
        if problem is None:
            _log.info("served %.*r: %d bytes", _MAX_QUOTE, session.replica, session.sent_bytes)
        else:
            _log.warning(
                "serving %.*r ended after %d bytes: %s",
                _MAX_QUOTE,
                session.replica,
                session.sent_bytes,
                problem,
            )
