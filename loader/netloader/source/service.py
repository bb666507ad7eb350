"""The source: listens for replicas and hands each a session of its own.

One thread owns the sockets; `dispatch.py` decides what it says to replicas. Sessions have threads
of their own (`session.py`), and so has the audit. Other threads reach the source's thread through
its inbox, and that thread reads the current offer from `CurrentOffer`. Without an offer (still
loading, or weights that cannot be served) every request is refused with the reason.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from netloader.source.audit import CHANGED, Audit
from netloader.source.dispatch import Dispatch
from netloader.source.listener import Listener
from netloader.source.observer import SourceObserver
from netloader.source.offer import CurrentOffer, Offer
from netloader.source.opening import Opener
from netloader.source.rekeying import Rekeying
from netloader.source.session import Session, SessionOutcome
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Throttle
from netloader.source.upstream import UpstreamService
from netloader.system import affinity
from netloader.system.inbox import Inbox
from netloader.system.threads import TransferThread
from netmesh import SocketSecurity

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Close:
    """Stop the source's thread."""


@dataclass(frozen=True)
class _Withdraw:
    """Abort all sessions; `done` is set once no session reads weights any more."""

    reason: str
    done: threading.Event


@dataclass(frozen=True)
class _Gained:
    """The current offer has more chunks."""


@dataclass(frozen=True)
class _Hold:
    """Let no session begin another chunk; `held` gets all sessions, also those that are ending."""

    held: Future[list[Session]]


@dataclass(frozen=True)
class _End:
    """End one session."""

    session: Session
    reason: str


@dataclass(frozen=True)
class _Resume:
    """Let held sessions go on with this offer."""

    offer: Offer


@dataclass(frozen=True)
class _Rekey:
    """The cluster keys have changed."""

    security: SocketSecurity


@dataclass(frozen=True)
class _ThreadEnded:
    """A session's thread has nothing more to do."""

    session: Session
    outcome: SessionOutcome


_Word = _Close | _Withdraw | _Gained | _Hold | _End | _Resume | _Rekey | _ThreadEnded


class Source:
    """Serves one model's weights to replicas. Thread safe."""

    def __init__(
        self,
        listener: Listener,
        generation: Callable[[], int],
        settings: SourceSettings,
        *,
        throttle: Throttle | None = None,
        upstream: Callable[[CurrentOffer], UpstreamService] | None = None,
        observer: SourceObserver | None = None,
    ) -> None:
        """Take over `listener`, which belongs to the source's thread from now on.

        `generation` returns the current generation of this process (the mesh may change it once).
        `throttle` limits the bytes per second; a worker's sources share one. None: no limit.
        `upstream` makes what answers replicas of vLLM Ascend's own Netloader; it is called once, if
        the listener has a door.
        """
        self._settings = settings
        self._listener = listener
        self._observer = observer if observer is not None else SourceObserver()
        self._current = CurrentOffer("the source is still loading")
        self._audit = Audit(self._current, self._changed, settings.audit_pause_s)
        opener = Opener(
            listener.host, listener.exposure, generation, settings, throttle, self._session_ended
        )
        self._dispatch = Dispatch(listener, self._current, opener, self._audit, self._observer)
        self._rekeying = Rekeying(listener.rekey, settings.rekey_pause_s)
        self._inbox: Inbox[_Word] = Inbox()
        self._upstream: UpstreamService | None = None
        if upstream is not None:
            self._upstream = upstream(self._current)
            listener.open_door(self._upstream.receive)
        # It uses no device, but sessions begin on the device that their starter has.
        self._thread = TransferThread(
            self._run, "netloader-source", stop=lambda: self._inbox.post(_Close())
        )
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """`host:port` for replicas."""
        return self._listener.endpoint

    @property
    def port(self) -> int:
        """Port of the endpoint."""
        return self._listener.port

    @property
    def sessions(self) -> int:
        """Number of replicas being served now. Sessions of which only the thread is left do not
        count."""
        return self._dispatch.served

    def serve(self, offer: Offer) -> None:
        """Hand out these weights from now on. Sessions that were held go on, if these weights
        promise the same."""
        self._current.put(offer)
        self._inbox.post(_Resume(offer))

    def gained(self) -> None:
        """Tell replicas that the offer has more chunks. Does not block."""
        self._inbox.post(_Gained())

    def hold(self, reason: str) -> None:
        """Read no weights until `serve` or `withdraw`, while replicas keep their sessions. New ones
        are told to come again.

        Once this returns, nothing reads the weights any more, and no session refers to them. A
        session that needs longer than `hold_s` for what it has begun to send is ended.
        """
        self._current.withdraw(reason, retry_after_s=self._settings.retry_after_s)
        self._settle(self._hold_sessions(reason))

    def withdraw(self, reason: str, *, for_now: bool = False) -> None:
        """Stop handing out weights: new requests are refused, sessions under way are aborted. With
        `for_now` replicas are told to come again.

        Once this returns, no session reads the weights any more: they may be changed or unmapped.
        """
        again_s = self._settings.retry_after_s if for_now else None
        self._current.withdraw(reason, retry_after_s=again_s)
        self._settle(self._end_sessions(reason))

    def rekey(self, security: SocketSecurity) -> None:
        """Accept replicas by these keys from now on. Sessions under way are not touched.

        Only for a source that had a key from the start.
        """
        self._inbox.post(_Rekey(security))

    def close(self) -> None:
        """End all sessions and stop listening. Takes at most about a second. Idempotent."""
        if self._upstream is not None:
            self._upstream.close()
        self._inbox.post(_Close())
        self._thread.join(2 * self._settings.close_timeout_s)

    def _settle(self, ended: bool) -> None:
        """Wait for the audit, too. `ended` says whether sessions read nothing any more."""
        if not (self._audit.settle(self._settings.close_timeout_s) and ended):
            _log.warning("a session is slow to end: weights may be read while they change")

    def _hold_sessions(self, reason: str) -> bool:
        """Make all sessions wait, and end those that have not put their chunks away in time.
        Returns False when one may still read weights."""
        settings = self._settings
        quiet = self._upstream is None or self._upstream.end(reason)
        deadline = time.monotonic() + settings.hold_s
        word = _Hold(Future())
        if not self._inbox.post(word):
            return quiet  # The source has closed.
        try:
            held = word.held.result(2 * settings.close_timeout_s)
        except TimeoutError:
            return self._end_sessions(reason)
        slow = [one for one in held if not one.wait_held(max(0.0, deadline - time.monotonic()))]
        for session in slow:
            session.abort(reason)
            self._inbox.post(_End(session, reason))
        deadline = time.monotonic() + settings.close_timeout_s
        ended = [one.quiet(max(0.0, deadline - time.monotonic())) for one in slow]
        return quiet and all(ended)

    def _end_sessions(self, reason: str) -> bool:
        """Make the source's thread end all sessions. Returns False when one may still read
        weights."""
        done = threading.Event()
        posted = self._inbox.post(_Withdraw(reason, done))
        quiet = self._upstream is None or self._upstream.end(reason)
        ended = not posted or done.wait(2 * self._settings.close_timeout_s)
        return quiet and ended

    def _changed(self, offer: Offer) -> None:
        """Called by the audit's thread when the weights are no longer those that were promised."""
        if not self._current.withdraw(CHANGED, only=offer):
            return  # The worker has withdrawn meanwhile, so it knows.
        self._end_sessions(CHANGED)
        try:
            self._observer.changed(CHANGED)
        except Exception:  # noqa: BLE001
            # Nothing is served any more, whether published or not.
            _log.exception("could not publish that the weights have changed")

    def _session_ended(self, session: Session, outcome: SessionOutcome) -> None:
        """Called by a session's thread. Nobody listens after the source has closed."""
        self._inbox.post(_ThreadEnded(session, outcome))

    def _run(self) -> None:
        affinity.step_aside(background=True)
        self._listener.watch(self._inbox)
        tell_in_s: float | None = None
        try:
            while True:
                waits = (self._rekeying.due_in_s, tell_in_s)
                wait_s = min((each for each in waits if each is not None), default=None)
                for caller, frames in self._listener.wait(wait_s):
                    self._dispatch.hear(caller, frames)
                obeyed = [self._obey(word) for word in self._inbox.take()]
                if not all(obeyed):
                    return
                tell_in_s = self._dispatch.tell_gains(time.monotonic())
                self._rekeying.attempt()
                self._listener.keep(self._dispatch.callers)
        finally:
            self._inbox.close()
            self._dispatch.end_all("the source closes")
            self._listener.close()

    def _obey(self, word: _Word) -> bool:
        """Act on one word from another thread. Returns False to stop."""
        match word:
            case _Close():
                return False
            case _Withdraw():
                if self._dispatch.end_all(word.reason):
                    word.done.set()
            case _Gained():
                pass  # Sleep is over, which is all that this word is for.
            case _Hold():
                word.held.set_result(self._dispatch.hold_all())
            case _End():
                self._dispatch.end(word.session, word.reason)
            case _Resume():
                self._dispatch.resume_all(word.offer)
            case _Rekey():
                self._rekeying.want(word.security)
            case _ThreadEnded():
                self._dispatch.session_ended(word.session, word.outcome)
        return True
