"""The source: listens for replicas and hands each a session of its own.

One thread owns the sockets and decides; sessions have threads of their own (`session.py`). Without
an offer (still loading, or weights that cannot be served) every request is refused with the reason.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zmq

from netloader import control
from netloader.errors import NetloaderError, ProtocolError
from netloader.identity import fields_digest, mismatch
from netloader.session import Offer, Session
from netloader.transport import Rendezvous
from netmesh import SocketSecurity, ZapHandler

_log = logging.getLogger(__name__)

MAX_SESSIONS = 4
"""Replicas served at once. Two streams fill a link already; more only make each slower."""

RETRY_AFTER_S = 1.0
"""What a replica is told when all sessions are taken."""

RENDEZVOUS_TIMEOUT_S = 10.0
"""How long an accepted replica may take to open the process group."""

_CLOSE_TIMEOUT_S = 1.0
_BACKLOG = 256
_FREE_PORTS = (20_000, 60_000)
_HANDSHAKE_MS = 3_000


class ListenError(NetloaderError):
    """The source's port cannot be listened on."""


@dataclass
class _Client:
    """A session beside the connection that may speak for it."""

    session: Session
    connection: bytes


class Source:
    """Serves one model's weights to replicas."""

    def __init__(
        self,
        host: str,
        port: int | None,
        generation: Callable[[], int],
        security: SocketSecurity,
        timeout_s: float,
        on_sessions: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Listen on `host`, on any free port when `port` is None.

        `generation` says who this process is now (the mesh may change it once).
        `on_sessions` is told the number of sessions whenever it changes, from the source's thread.
        Raises `ListenError` when the port is taken or the address is not ours.
        """
        self._generation = generation
        self._host = host
        self._timeout_s = timeout_s
        self._on_sessions = on_sessions
        self._offer: Offer | None = None
        self._unready = "the source is still loading"
        self._clients: dict[str, _Client] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zap = ZapHandler(self._context, security) if security.enabled else None
        self._router = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.BACKLOG, _BACKLOG),
            (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
            (zmq.MAXMSGSIZE, control.MAX_MESSAGE_BYTES),
            (zmq.IPV6, int(":" in host)),
        ):
            self._router.setsockopt(option, value)
        security.apply_server(self._router)
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox_address = f"inproc://netloader-source-{id(self)}"
        self._inbox.bind(self._inbox_address)
        try:
            self.port = self._bind(port)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise ListenError(f"cannot listen on {host}:{port or '*'}: {error}") from None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="netloader-source", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """`host:port` for replicas."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.port}"

    @property
    def sessions(self) -> int:
        """Replicas being served now."""
        return len(self._clients)

    def serve(self, offer: Offer) -> None:
        """Hand out these weights from now on."""
        self._offer = offer

    def withdraw(self, reason: str) -> None:
        """Stop handing out weights: new requests are refused, sessions under way are aborted."""
        self._offer = None
        self._unready = reason
        self._post(_WITHDRAW)

    def close(self) -> None:
        """End all sessions and stop listening. Takes at most about a second."""
        if not self._closing:
            self._closing = True
            self._post(_CLOSE)
            self._thread.join(_CLOSE_TIMEOUT_S)
            self._context.destroy(linger=0)

    def _bind(self, port: int | None) -> int:
        host = f"[{self._host}]" if ":" in self._host else self._host
        if port is None:
            return self._router.bind_to_random_port(f"tcp://{host}", *_FREE_PORTS)
        self._router.bind(f"tcp://{host}:{port}")
        return port

    def _post(self, *frames: bytes) -> None:
        """Wake the source's thread from another one."""
        with self._context.socket(zmq.PUSH) as wake:
            wake.linger = 0
            wake.connect(self._inbox_address)
            wake.send_multipart(list(frames))

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._router, self._inbox, *([self._zap.socket] if self._zap else [])):
            poller.register(socket, zmq.POLLIN)
        try:
            while True:
                for socket, _ in poller.poll():
                    if self._zap is not None and socket is self._zap.socket:
                        self._zap.handle()
                    elif socket is self._inbox:
                        if not self._handle_inbox(self._inbox.recv_multipart()):
                            return
                    else:
                        self._handle_request()
        finally:
            for client in list(self._clients.values()):
                client.session.abort("the source closes")
            self._router.close(linger=0)
            self._inbox.close(linger=0)
            if self._zap is not None:
                self._zap.close()

    def _handle_inbox(self, frames: list[bytes]) -> bool:
        """One word from another thread. False: stop."""
        if frames[0] == _CLOSE:
            return False
        if frames[0] == _WITHDRAW:
            for client in list(self._clients.values()):
                client.session.abort(self._unready)
        elif frames[0] == _ENDED:
            self._forget(frames[1].decode(), frames[2].decode() or None)
        return True

    def _handle_request(self) -> None:
        connection, *frames = self._router.recv_multipart()
        try:
            message, _ = control.decode(frames)
        except ProtocolError as error:
            _log.warning("a peer sent what is no control message: %s", error)
            return
        try:
            match message:
                case control.Hello():
                    self._reply(connection, *self._answer(connection, message))
                case control.Want() | control.Done() | control.Bye():
                    self._steer(connection, message)
                case _:
                    _log.warning("a replica sent a %s, which only sources send", message.type)
        except Exception:  # noqa: BLE001
            # One replica's request must not end the service for the others.
            _log.exception("a %s request failed", message.type)

    def _answer(
        self, connection: bytes, hello: control.Hello
    ) -> tuple[control.Accept | control.Refuse, bytes | None]:
        offer = self._offer
        refusal = self._refusal(offer, hello)
        if refusal is not None or offer is None:
            return refusal or control.Refuse(code="not-ready", reason=self._unready), (
                offer.weights.manifest.encode()
                if offer is not None and refusal is not None and refusal.code == "manifest"
                else None
            )
        rendezvous = Rendezvous(self._host, RENDEZVOUS_TIMEOUT_S)
        session = Session(
            secrets.token_hex(16), hello.replica, offer, rendezvous, self._timeout_s, self._ended
        )
        self._clients[session.id] = _Client(session, connection)
        session.start()
        self._on_sessions(len(self._clients))
        _log.info("serving %s: %d bytes", hello.replica, offer.weights.manifest.nbytes)
        return control.Accept(
            session=session.id,
            generation=self._generation(),
            identity=offer.identity.digest,
            manifest=offer.weights.manifest.hash,
            attributes=dict(offer.attributes),
            host=rendezvous.host,
            port=rendezvous.port,
            secret=rendezvous.secret,
            have=((0, len(offer.chunks)),),
        ), b"".join(offer.digests)

    def _refusal(self, offer: Offer | None, hello: control.Hello) -> control.Refuse | None:
        """Why a replica is not served, or None."""
        if hello.version != control.VERSION:
            return control.Refuse(
                code="version",
                reason=f"mine is version {control.VERSION}, yours {hello.version}",
            )
        if hello.generation is not None and hello.generation != self._generation():
            return control.Refuse(
                code="generation",
                reason=f"I am generation {self._generation()}, not {hello.generation}: restarted",
            )
        if offer is None:
            return control.Refuse(code="not-ready", reason=self._unready)
        if fields_digest(hello.fields) != hello.identity:
            return control.Refuse(code="identity", reason="your fields have another digest")
        different = mismatch(offer.identity, hello.fields, hello.content)
        if different is not None:
            return control.Refuse(code="identity", reason=different[:2048])
        if hello.backend != offer.backend.name:
            return control.Refuse(
                code="backend", reason=f"mine {offer.backend.name}, theirs {hello.backend}"
            )
        if hello.manifest != offer.weights.manifest.hash:
            return control.Refuse(code="manifest", reason="our tensors differ")
        if len(self._clients) >= MAX_SESSIONS:
            return control.Refuse(
                code="busy",
                reason=f"all {MAX_SESSIONS} sessions are taken",
                retry_after_s=RETRY_AFTER_S,
            )
        return None

    def _steer(self, connection: bytes, message: control.Want | control.Done | control.Bye) -> None:
        client = self._clients.get(message.session)
        if client is None or client.connection != connection:
            self._reply(connection, control.Bye(session=message.session, reason="no such session"))
            return
        match message:
            case control.Want():
                wrong = client.session.want(message.chunks)
                if wrong is not None:
                    client.session.abort(wrong)
            case control.Done():
                client.session.finish()
            case control.Bye():
                client.session.abort(f"the replica gave up: {message.reason}")

    def _ended(self, session: Session, problem: str | None) -> None:
        """Called by a session's thread."""
        try:
            self._post(_ENDED, session.id.encode(), (problem or "").encode())
        except zmq.ZMQError:
            _log.debug("session %s ended after the source closed", session.id)

    def _forget(self, session_id: str, problem: str | None) -> None:
        client = self._clients.pop(session_id, None)
        if client is None:
            return
        session = client.session
        if problem is None:
            _log.info("served %s: %d bytes", session.replica, session.sent_bytes)
        else:
            _log.warning(
                "serving %s ended after %d bytes: %s", session.replica, session.sent_bytes, problem
            )
            self._reply(client.connection, control.Bye(session=session_id, reason=problem[:2048]))
        self._on_sessions(len(self._clients))

    def _reply(
        self, connection: bytes, message: control.Message, attachment: bytes | None = None
    ) -> None:
        frames: Sequence[bytes] = [connection, *control.encode(message, attachment)]
        try:
            self._router.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            # Gone or not reading. Its session, if any, ends by its own timeout.
            _log.debug("could not answer a replica: %s", error)


_CLOSE, _WITHDRAW, _ENDED = b"close", b"withdraw", b"ended"
