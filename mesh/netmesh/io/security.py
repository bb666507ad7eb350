"""Who may connect: CURVE keys derived from one cluster key, and the ZAP handler that checks them.

A cluster key is 32 random bytes that every process of a deployment has. For each mesh name and
purpose, HKDF-SHA256 derives one server and one client key pair from it. All processes with the key
share these pairs (docs/adr/0002): to know the key is to be a member. A client proves that it knows
the key by owning the client pair, a server by owning the server pair. Traffic has forward secrecy.

CURVE alone admits any client that knows the server's public key. So a ZAP handler checks clients
against an allow-list, and the domain is enforced: nobody gets in without a running handler.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from netmesh.errors import SettingsError
from netmesh.program import Program
from netmesh.settings import MeshSettings

KEY_BYTES = 32
MAX_KEYS = 4
"""Keys accepted at once: a rotation needs two, a rotation that went wrong three."""

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
SECRET = "(secret)"
_FORMAT = "allowed: 64 hexadecimal digits or base64 of 32 bytes"


def generate_key() -> str:
    """A new cluster key as text, from the operating system's random source."""
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii")


def parse_key(text: str, program: Program) -> bytes:
    """The 32 bytes of a key given as text. Raises a SettingsError that never shows the key."""
    text = text.strip()
    allowed = f"{_FORMAT} (make one: {program.keygen})"
    try:
        if len(text) == 2 * KEY_BYTES:
            raw = bytes.fromhex(text)
        else:
            standard = text.replace("-", "+").replace("_", "/")
            raw = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise SettingsError("MESH_KEY", SECRET, allowed) from None
    if len(raw) != KEY_BYTES:
        raise SettingsError("MESH_KEY", SECRET, f"it has {len(raw)} bytes; {allowed}")
    if len(set(raw)) < 8:  # 32 random bytes have fewer distinct values less than once in 10^40
        raise SettingsError("MESH_KEY", SECRET, f"it is not random (a placeholder?); {allowed}")
    return raw


def load_keys(settings: MeshSettings) -> tuple[bytes, ...]:
    """The cluster keys of `settings`, the current one first; empty if there are none.

    Raises SettingsError when a key or its file cannot be used.
    """
    if settings.key_file is not None:
        path = settings.key_file
        try:
            state = path.stat()
            text = path.read_text("ascii")
        except (OSError, UnicodeError) as error:
            raise SettingsError("MESH_KEY_FILE", str(path), f"cannot read it ({error})") from None
        if state.st_mode & stat.S_IWOTH:
            raise SettingsError("MESH_KEY_FILE", str(path), "anybody may write to it: chmod 600")
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        origin, shown = "MESH_KEY_FILE", str(path)
    elif settings.key is not None:
        lines = (part.strip() for part in settings.key.get_secret_value().split(","))
        origin, shown = "MESH_KEY", SECRET
    else:
        return ()
    keys = tuple(dict.fromkeys(parse_key(line, settings.program) for line in lines if line))
    if not 1 <= len(keys) <= MAX_KEYS:
        raise SettingsError(origin, shown, f"it holds {len(keys)} keys; allowed: 1 to {MAX_KEYS}")
    return keys


def fingerprint(key: bytes) -> str:
    """A name for a cluster key that may be shown: 32 bits of a hash, which do not help to find the
    key."""
    return hkdf_sha256(key, salt=b"netmesh", info=b"netmesh fingerprint").hex()[:8]


def warn_of_readable_key(settings: MeshSettings, log: logging.Logger) -> None:
    """Tell the operator if other users of this machine can read the key file."""
    try:
        readable = settings.key_file is not None and settings.key_file.stat().st_mode & stat.S_IROTH
    except OSError:
        return  # whoever loads the keys says so
    if readable:
        log.warning(
            "mesh: every user of this machine can read MESH_KEY_FILE=%s, and so be a member: "
            "`chmod 600` it (for a secret of Kubernetes: `defaultMode: 0400`)",
            settings.key_file,
        )


@dataclass(frozen=True, slots=True)
class CurvePair:
    """A Curve25519 key pair, each key as the 40 Z85 characters that ZeroMQ wants."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The key pairs that one cluster key gives for one mesh and purpose."""

    server: CurvePair
    client: CurvePair

    @classmethod
    def derive(cls, key: bytes, mesh: str, purpose: str) -> KeyRing:
        """Independent pairs for every (key, mesh name, purpose). None helps to guess another."""
        pairs = []
        for side in ("server", "client"):
            # Length prefixes keep ("ab", "c") and ("a", "bc") apart.
            info = b"".join(
                len(part).to_bytes(2, "big") + part
                for part in (b"netmesh curve 1", mesh.encode(), purpose.encode(), side.encode())
            )
            secret = z85.encode(hkdf_sha256(key, salt=b"netmesh", info=info))
            pairs.append(CurvePair(public=zmq.curve_public(secret), secret=secret))
        return cls(*pairs)


def hkdf_sha256(key: bytes, *, salt: bytes, info: bytes) -> bytes:
    """32 bytes from HKDF (RFC 5869) with SHA-256. One expansion block is enough for them."""
    extracted = hmac.digest(salt, key, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


@dataclass(frozen=True, slots=True)
class SocketSecurity:
    """Applies one mesh's keys to sockets of one purpose. If there is no key, everybody is let in.

    A server also needs a ZapHandler on its context, polled by the thread that owns the handler.
    Without a handler, CURVE refuses everybody.
    """

    rings: tuple[KeyRing, ...]
    """Current key first; the others are accepted too (rotation)."""

    domain: str
    """ZAP domain: names the mesh and the purpose."""

    @classmethod
    def from_settings(cls, settings: MeshSettings, purpose: str = "mesh") -> SocketSecurity:
        """Keys for `purpose`. Raises SettingsError.

        "mesh" is the gossip itself. Give each other channel a name of its own, so that nobody can
        replay its traffic elsewhere.
        """
        return cls.from_keys(load_keys(settings), settings.name, purpose)

    @classmethod
    def from_keys(cls, keys: Sequence[bytes], mesh: str, purpose: str = "mesh") -> SocketSecurity:
        rings = tuple(KeyRing.derive(key, mesh, purpose) for key in keys)
        return cls(rings, f"netmesh.{mesh}.{purpose}")

    @property
    def enabled(self) -> bool:
        """False if everybody who reaches the port is let in."""
        return bool(self.rings)

    def apply_server(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket` a CURVE server of the current key. Call before bind.

        Without a key everybody is let in, but has to say the whole handshake: a socket without a
        domain takes a client's first odd byte for an old protocol, and then waits for ever.
        """
        if self.domain:
            socket.setsockopt_string(zmq.ZAP_DOMAIN, self.domain)
        if not self.rings:
            return
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.rings[0].server.secret)
        # Without this option, a missing handler would let everybody in.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def apply_client(self, socket: zmq.Socket[bytes], ring: int = 0) -> None:
        """Make `socket` a CURVE client with key number `ring` (modulo the number of keys).

        Call before connect. A server that uses another key does not answer; try the next one.
        """
        if not self.rings:
            return
        keys = self.rings[ring % len(self.rings)]
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.client.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.client.secret)


class ZapHandler:
    """Answers the ZeroMQ authentication requests (RFC 27) of one context from an allow-list.

    In the domain of a `SocketSecurity` without a key, everybody is let in.

    Make it before any server socket of that context is bound. Register `socket` for POLLIN in the
    poll loop, and call `handle` when it is readable. Belongs to the thread that made it.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        security: SocketSecurity,
        counters: Counter[str] | None = None,
    ) -> None:
        self._counters = Counter() if counters is None else counters
        self._allowed: dict[bytes, frozenset[bytes]] = {}
        self._keyless: set[bytes] = set()
        self.allow(security)
        self.socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ZAP_ENDPOINT)

    def allow(self, security: SocketSecurity) -> None:
        """Replace the allow-list of the domain of `security`."""
        domain = security.domain.encode()
        clients = frozenset(z85.decode(ring.client.public) for ring in security.rings)
        self._allowed[domain] = clients
        if security.enabled:
            self._keyless.discard(domain)
        else:
            self._keyless.add(domain)

    def handle(self) -> None:
        """Answer all waiting requests."""
        while True:
            try:
                request = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self.socket.send_multipart(self._answer(request), zmq.DONTWAIT)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        number = request[1] if len(request) > 1 else b""
        allowed = False
        if len(request) == 7 and request[0] == b"1.0" and request[5] == b"CURVE":
            allowed = request[6] in self._allowed.get(request[2], frozenset())
        elif len(request) == 6 and request[0] == b"1.0" and request[5] == b"NULL":
            allowed = request[2] in self._keyless
        if allowed:
            self._counters["zap.accepted"] += 1
            return [b"1.0", number, b"200", b"OK", b"member", b""]
        self._counters["zap.refused"] += 1
        return [b"1.0", number, b"400", b"not a member", b"", b""]

    def close(self) -> None:
        """Free the context's place for a handler at once; a closed socket alone does so later."""
        if not self.socket.closed:
            self.socket.unbind(ZAP_ENDPOINT)
            self.socket.close(linger=0)
