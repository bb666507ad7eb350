"""Between the socket and the answers: who may ask, and the headers of every answer."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mesh_inspect.web.access import HEADERS, Asked, WebAccess

_WELCOME: Final = """\
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>mesh-inspect</title>
<meta http-equiv="refresh" content="0; url=/"></head><body><a href="/">to the map</a></body></html>
"""
"""Goes on to the page. A redirection would do so without the cookie when the address was clicked
on a page elsewhere."""


class WebGate:
    """Lets in what `WebAccess` allows."""

    def __init__(self, app: ASGIApp, access: WebAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            asked = _asked(scope)
        except ValueError:
            app: ASGIApp = PlainTextResponse("too many parameters\n", 400)
        else:
            app = self._answer(asked) or self._app
        await app(scope, receive, with_headers)

    def _answer(self, asked: Asked) -> Response | None:
        """The answer that needs no look at the mesh."""
        if asked.path == "/" and self._access.gives_token(asked):
            welcome = HTMLResponse(_WELCOME)
            welcome.set_cookie(
                self._access.cookie, self._access.cookie_value, httponly=True, samesite="strict"
            )
            return welcome
        denied = self._access.judge(asked)
        if denied is None:
            return None
        return PlainTextResponse(denied.reason + "\n", denied.status)


def _asked(scope: Scope) -> Asked:
    headers = Headers(scope=scope)
    query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8)
    return Asked(
        scope["method"],
        scope["path"],
        headers.get("host", ""),
        headers.get("origin"),
        headers.get("sec-fetch-site"),
        headers.get("cookie", ""),
        headers.get("authorization", ""),
        query["token"][0] if "token" in query else None,
    )
