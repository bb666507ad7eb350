"""Who may ask what. Pure.

Without a token only names of loopback are answered: a page elsewhere whose name was made to lead
here (DNS rebinding) still has its own name in `Host`. A page elsewhere that asks this server openly
shows its own name in `Origin`, or `cross-site` in `Sec-Fetch-Site`, and learns nothing.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Final

MIN_TOKEN: Final = 16
"""Characters of a token that an operator chooses."""

_SAME: Final = frozenset({"same-origin", "none"})
"""Of `Sec-Fetch-Site`: asked by the page itself, or by the person."""

_SCHEMES: Final = ("http://", "https://")
"""With https a proxy stands before the server."""

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Of every answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What decides about a request."""

    method: str
    path: str
    host: str
    """The header `Host`: name and port."""
    origin: str | None = None
    fetch_site: str | None = None
    """The header `Sec-Fetch-Site`."""
    cookies: str = ""
    authorization: str = ""
    token: str | None = None
    """In the address: only that of the page."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is not answered."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class WebAccess:
    """The rules of one server."""

    token: str | None
    """None: whoever reaches loopback may look."""
    cookie: str
    """Name of the cookie that shows the token was given. It has the port in it, because the servers
    of a host share their cookies."""

    def judge(self, asked: Asked) -> Denied | None:
        """None: the request is answered."""
        if self.token is None and not is_loopback(asked.host):
            return Denied(
                421,
                f"this server answers to a name of loopback, not to {asked.host!r}: use "
                "http://127.0.0.1, or start it with --host",
            )
        if (denied := self._of_another_page(asked)) is not None:
            return denied
        if self.token is not None and not self._proven(asked):
            return Denied(
                401,
                "a token is needed: use the address that mesh-inspect printed, or the header "
                "'Authorization: Bearer TOKEN'",
            )
        return None

    def gives_token(self, asked: Asked) -> bool:
        """Whether the page's address has the right token, so that the cookie is due."""
        return self.token is not None and asked.token is not None and _same(asked.token, self.token)

    @property
    def cookie_value(self) -> str:
        """What the cookie holds: not the token, because every server of this host is shown it."""
        assert self.token is not None
        return hmac.new(self.token.encode(), b"mesh-inspect web cookie", sha256).hexdigest()

    def _of_another_page(self, asked: Asked) -> Denied | None:
        own = any(asked.origin == scheme + asked.host for scheme in _SCHEMES)
        if asked.origin is not None and not own:
            return Denied(403, f"asked by a page of {asked.origin!r}, which may not read this")
        if asked.method == "POST" and not own:
            return Denied(403, "the header Origin must be that of this server")
        # A link to the page itself may stand anywhere.
        elsewhere = asked.fetch_site is not None and asked.fetch_site not in _SAME
        if elsewhere and asked.path != "/":
            return Denied(403, "asked by a page of another site, which may not read this")
        return None

    def _proven(self, asked: Asked) -> bool:
        assert self.token is not None
        scheme, _, given = asked.authorization.partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), self.token):
            return True
        try:
            cookie = SimpleCookie(asked.cookies).get(self.cookie)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self.cookie_value)


def is_loopback(host: str) -> bool:
    """Whether the `Host` of a request (`name`, `name:port`, `[v6]:port`) is a name of loopback."""
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not name:
        name, port = host, ""
    if port and not (port.isascii() and port.isdigit()):
        return False
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def needs_token(address: str) -> bool:
    """Whether readers of a server that listens there have to prove who they are."""
    return not is_loopback(f"[{address}]" if ":" in address else address)


def _same(given: str, expected: str) -> bool:
    """Takes as long for any text of one length."""
    return hmac.compare_digest(given.encode(), expected.encode())
