"""Who may ask the server of the live map, and what a hostile socket gets."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fastest import HANG_S
from tests.mesh.support import until

from mesh_inspect.view.rows import rows_of
from mesh_inspect.watching import Sight
from mesh_inspect.web.access import Asked, WebAccess, is_loopback, needs_token
from mesh_inspect.web.settings import WebSettings

from ..support import holding, member
from .served import COOKIE, Screen, ServedMap, served

ONE = member(holding("org/a"), id="10.0.0.1:1")
SIGHT = Sight(1.79e9, (ONE,), rows_of([ONE]))
TOKEN = "correct horse battery staple"
FAST = WebSettings(period_s=0.01)


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    (folder / "index.html").write_text("<!doctype html><title>map</title>")
    return folder


@pytest.fixture(scope="module")
def open_server(static: Path) -> Iterator[ServedMap]:
    with served(Screen(SIGHT), replace(FAST, static=static)) as made:
        yield made


@pytest.fixture(scope="module")
def closed_server(static: Path) -> Iterator[ServedMap]:
    with served(Screen(SIGHT), replace(FAST, static=static), TOKEN) as made:
        yield made


def status(server: ServedMap, path: str = "/api/mesh", **headers: str) -> int:
    return server.ask(path, {name.replace("_", "-"): said for name, said in headers.items()}).status


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8765", "LOCALHOST", "[::1]:1", "[::1]", "127.8.8.8:80"]
)
def test_names_of_loopback_are_answered(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", ":80", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1:1",
     "0.0.0.0", "localhost:x", "localhost:8765@evil.example", "[::1", "[::2]:1", "127.1.evil"],
)  # fmt: skip
def test_other_names_are_not(host: str, open_server: ServedMap) -> None:
    assert not is_loopback(host)
    if host:
        assert status(open_server, Host=host) == 421
        assert status(open_server, "/", Host=host) == 421
        assert status(open_server, "/static/main.js", Host=host) == 421


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.3.2.1"])
def test_loopback_needs_no_token(address: str) -> None:
    assert not needs_token(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "fd00::1", "map.example", ""])
def test_every_other_address_does(address: str) -> None:
    assert needs_token(address)


def test_a_page_of_another_origin_reads_nothing(open_server: ServedMap) -> None:
    own = f"http://{open_server.host}"
    assert status(open_server, Origin=own) == 200
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        own[:-1],
    ):
        assert status(open_server, Origin=origin) == 403
    for site in ("cross-site", "same-site"):
        assert status(open_server, Sec_Fetch_Site=site) == 403
        # A link to the page may stand anywhere.
        assert status(open_server, "/", Sec_Fetch_Site=site) == 200
    assert status(open_server, Sec_Fetch_Site="same-origin") == 200
    assert (
        "access-control-allow-origin" not in open_server.ask("/api/mesh", {"Origin": own}).headers
    )


@pytest.mark.parametrize("path", ["/", "/api/mesh", "/api/other", "/static/none", "/api/match"])
def test_every_answer_has_the_headers_that_protect_it(open_server: ServedMap, path: str) -> None:
    headers = open_server.ask(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy
    assert headers["cache-control"] in ("no-store", "no-cache")
    assert "server" not in headers


def test_a_token_is_needed_for_everything(closed_server: ServedMap) -> None:
    for path in ("/", "/api/mesh", "/api/events", "/static/index.html", "/api/other"):
        refused = closed_server.ask(path)
        assert refused.status == 401 and TOKEN.encode() not in refused.body
    for wrong in ("", "x", TOKEN + "x", TOKEN[:-1], TOKEN.upper()):
        assert status(closed_server, Authorization=f"Bearer {wrong}") == 401
        assert status(closed_server, Cookie=f"{COOKIE}={wrong}") == 401
    assert status(closed_server, Authorization=f"Bearer {TOKEN}") == 200
    assert status(closed_server, Authorization=f"Basic {TOKEN}") == 401
    assert status(closed_server, f"/api/mesh?token={TOKEN.replace(' ', '+')}") == 401


def test_the_address_with_the_token_gives_a_cookie_that_is_not_the_token(
    closed_server: ServedMap,
) -> None:
    path = f"/?token={TOKEN.replace(' ', '%20')}"
    welcome = closed_server.ask(path, {"Sec-Fetch-Site": "cross-site"})
    assert welcome.status == 200 and TOKEN.encode() not in welcome.body
    cookie = welcome.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
    given_back = cookie.partition(";")[0]
    assert status(closed_server, "/", Cookie=given_back) == 200
    assert status(closed_server, Cookie=f"a=b; {given_back}") == 200
    # The cookie does not make a page elsewhere one of ours.
    assert status(closed_server, Cookie=given_back, Origin="http://evil.example") == 403
    assert closed_server.ask("/?token=wrong").status == 401


def test_with_a_token_any_name_leads_to_the_server(closed_server: ServedMap) -> None:
    bearer = f"Bearer {TOKEN}"
    assert status(closed_server, Host="map.example", Authorization=bearer) == 200
    origin = {"Host": "map.example", "Origin": "https://map.example"}
    assert closed_server.ask("/api/mesh", origin | {"Authorization": bearer}).status == 200


def test_tokens_of_two_servers_give_two_cookies() -> None:
    one, two = WebAccess("a" * 20, "c"), WebAccess("b" * 20, "c")
    assert one.cookie_value != two.cookie_value and "a" * 20 not in one.cookie_value


texts = st.text(max_size=40)


@given(texts, texts, texts | st.none(), texts | st.none(), texts, texts, texts | st.none())
def test_nothing_but_the_token_opens(
    path: str,
    host: str,
    origin: str | None,
    site: str | None,
    cookies: str,
    authorization: str,
    token: str | None,
) -> None:
    access = WebAccess(TOKEN, COOKIE)
    asked = Asked("GET", path, host, origin, site, cookies, authorization, token)
    denied = access.judge(asked)
    assert denied is not None and TOKEN not in denied.reason
    assert not access.gives_token(asked)


# What a hostile socket sends.


def answer(server: ServedMap, sent: bytes) -> bytes:
    """All that comes back until the server ends the connection."""
    with server.connect() as peer:
        with contextlib.suppress(OSError):  # It is closed while we still send.
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
        return rest(peer)


def rest(peer: socket.socket) -> bytes:
    peer.settimeout(HANG_S)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(1 << 16):
            found += part
    return found


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 100,
        b"GET /api/mesh HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"GET /api/mesh HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 400_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 400_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(open_server: ServedMap, sent: bytes) -> None:
    got = answer(open_server, sent)
    # The kernel throws an answer away when the server has not read everything.
    assert not got or got.split(b" ")[1] in (b"400", b"501"), got[:80]
    assert open_server.ask("/api/mesh").status == 200


def test_odd_requests_are_answered_like_any(open_server: ServedMap) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert open_server.ask("/api/mesh", upgrade).status == 200
    many = "&".join(f"a{n}=1" for n in range(100))
    assert open_server.ask(f"/api/mesh?{many}").status == 400
    assert open_server.ask("/?token=%ff%00").status == 200


def test_a_connection_that_asks_nothing_is_closed(static: Path) -> None:
    with served(Screen(SIGHT), replace(FAST, static=static, header_s=0.1)) as server:
        with server.connect() as silent:
            assert rest(silent) == b""
        with server.connect() as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            assert rest(slow) == b""
        with server.connect() as second:
            second.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT")
            assert rest(second).startswith(b"HTTP/1.1 200")


def test_a_stream_of_events_is_not_closed_for_silence(static: Path) -> None:
    settings = replace(FAST, static=static, header_s=0.05, keep_alive_s=0.02)
    with served(Screen(SIGHT), settings) as server, server.connect() as reader:
        reader.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = b""
        while heard.count(b": still here") < 10:
            part = reader.recv(1 << 16)
            assert part, "the server closed a stream that was in use"
            heard += part


def test_a_reader_that_takes_nothing_is_dropped(static: Path) -> None:
    long = holding("org/a", state="unavailable", reason="x" * 1000)
    many = tuple(member(long, id=f"10.0.0.1:{n}") for n in range(1, 500))
    sight = Sight(1.79e9, many, rows_of(many))
    settings = replace(FAST, static=static, stuck_s=0.2, readers=1)
    # More than the kernel keeps for a connection.
    with served(Screen(sight), settings, send_buffer=4096) as server, socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.settimeout(HANG_S)
        greedy.connect(("127.0.0.1", server.port))
        greedy.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert greedy.recv(10)
        # There is one place, and it is free again.
        until(lambda: has_room(server))


def test_connections_are_bounded(static: Path) -> None:
    with served(Screen(SIGHT), replace(FAST, static=static, connections=4)) as server:
        held = [server.connect() for _ in range(4)]
        try:
            with server.connect() as more:
                assert rest(more) == b""
        finally:
            for one in held:
                one.close()
        # Room again as soon as they are gone.
        until(lambda: is_answered(server))


def has_room(server: ServedMap) -> bool:
    try:
        with server.events():
            return True
    except AssertionError:
        return False  # 503


def is_answered(server: ServedMap) -> bool:
    try:
        return server.ask("/api/mesh").status == 200
    except (OSError, http.client.HTTPException):
        return False
