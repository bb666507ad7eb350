"""The answers of the server."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import asdict
from typing import Annotated, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from mesh_inspect.output.documents import ascii_json
from mesh_inspect.view.pairs import fitness
from mesh_inspect.web.broadcast import Broadcast, TooManyReaders
from mesh_inspect.web.picture import MeshPicture
from mesh_inspect.web.playhead import FASTEST, SLOWEST
from mesh_inspect.web.settings import WebSettings
from netmesh import Member, MemberId, MeshSettings

_ONE_PACKET: Final = 1400
"""Bytes of an answer that need no compression."""


class Scene(Protocol):
    """What there is to see: a mesh now, or a recording."""

    async def current(self) -> MeshPicture:
        """What is to be seen now."""
        ...

    def want(self) -> None:
        """Somebody begins to watch."""
        ...


class Steer(Protocol):
    """Moves the playhead of a recording; returns where it is then."""

    async def __call__(
        self, *, paused: bool | None, speed: float | None, at: float | None
    ) -> dict[str, object]: ...


class ReplayOrder(BaseModel):
    """What a page says to a replay. What is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    paused: bool | None = None
    speed: Annotated[float, Field(ge=SLOWEST, le=FASTEST)] | None = None
    at: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Seconds since the epoch."""


def application(
    scene: Scene,
    broadcast: Broadcast,
    settings: WebSettings,
    mesh: MeshSettings,
    steer: Steer | None = None,
) -> Starlette:
    """All answers. `mesh` says which addresses a worker may connect to; `steer` is there for a
    recording."""
    answers = _Answers(scene, broadcast, settings, mesh, steer)
    app = Starlette(
        routes=[
            Route("/", answers.page),
            Route("/api/mesh", answers.mesh),
            Route("/api/events", answers.events),
            Route("/api/happened", answers.happened),
            Route("/api/members/{member:path}", answers.member),
            Route("/api/match", answers.match),
            Route("/api/replay", answers.replay, methods=["POST"]),
            Mount("/static", StaticFiles(directory=settings.static, check_dir=False)),
        ],
        exception_handlers={HTTPException: _refused},
    )
    # The page knows its addresses; a redirection would tell a stranger what Host it had sent.
    app.router.redirect_slashes = False
    return app


class _Answers:
    def __init__(
        self,
        scene: Scene,
        broadcast: Broadcast,
        settings: WebSettings,
        mesh: MeshSettings,
        steer: Steer | None,
    ) -> None:
        self._scene = scene
        self._steer = steer
        self._broadcast = broadcast
        self._settings = settings
        self._mesh = mesh

    async def page(self, request: Request) -> Response:
        file = self._settings.static / "index.html"
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    async def mesh(self, request: Request) -> Response:
        picture = await self._scene.current()
        return _answer(request, picture.document(self._broadcast.mesh, self._broadcast.replay()))

    async def events(self, request: Request) -> Response:
        self._scene.want()
        return _EventStream(
            self._broadcast, request.headers.get("last-event-id"), compressed=_takes_gzip(request)
        )

    async def happened(self, request: Request) -> Response:
        await self._scene.current()
        return _answer(request, {"happened": [one.document() for one in self._broadcast.happened]})

    async def member(self, request: Request) -> Response:
        picture = await self._scene.current()
        wanted = MemberId(request.path_params["member"])
        told = picture.member(wanted)
        if told is None:
            raise HTTPException(404, f"no member {wanted!r} is known")
        return _answer(request, told)

    async def match(self, request: Request) -> Response:
        picture = await self._scene.current()
        replica, source = (_named(request, picture, name) for name in ("replica", "source"))
        workers = [
            {
                "model": one.model or None,
                "role": one.role,
                "layout": asdict(one.place),
                "fits": one.fits,
                "reasons": one.reasons,
            }
            for one in fitness(replica, source, self._mesh)
        ]
        return _answer(request, {"workers": workers})

    async def replay(self, request: Request) -> Response:
        if self._steer is None:
            raise HTTPException(404, "this mesh is live: nothing is replayed")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "the body must be application/json")
        try:
            async with asyncio.timeout(self._settings.header_s):
                body = await _body(request, self._settings.body_bytes)
        except TimeoutError:
            raise HTTPException(408, "the body did not come", {"Connection": "close"}) from None
        try:
            order = ReplayOrder.model_validate_json(body)
        except ValidationError as error:
            raise HTTPException(400, _words(error)) from None
        told = await self._steer(paused=order.paused, speed=order.speed, at=order.at)
        return _answer(request, told)


class _EventStream(Response):
    """The events, for one reader, until either end has enough."""

    def __init__(self, broadcast: Broadcast, last: str | None, *, compressed: bool) -> None:
        super().__init__()
        self._broadcast = broadcast
        self._last = last
        self._compressed = compressed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"Vary": "Accept-Encoding"}
        if self._compressed:
            headers["Content-Encoding"] = "gzip"
        answer: Response
        try:
            with self._broadcast.reader(self._last) as reader:
                answer = StreamingResponse(
                    reader.parts(compressed=self._compressed),
                    headers=headers,
                    media_type="text/event-stream",
                )
                await answer(scope, receive, send)
        except TooManyReaders:
            answer = PlainTextResponse(
                "as many watch as may: close another page of this map\n",
                503,
                {"Retry-After": "10"},
            )
            await answer(scope, receive, send)


async def _body(request: Request, most: int) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise HTTPException(413, f"at most {most} bytes", {"Connection": "close"})
    return body


def _words(error: ValidationError) -> str:
    """What is wrong with an order, in a line."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in faults[:4]
    )


def _named(request: Request, picture: MeshPicture, name: str) -> Member:
    """The member that a parameter names."""
    wanted = MemberId(request.query_params.get(name, ""))
    portrait = picture.portraits.get(wanted)
    if portrait is None:
        raise HTTPException(404 if wanted else 400, f"{name} {wanted!r} is not known")
    return portrait.member


def _answer(request: Request, value: object) -> Response:
    """A document, compressed where the browser understands that."""
    body = ascii_json(value, indent=False).encode()
    headers = {"Vary": "Accept-Encoding"}
    if len(body) > _ONE_PACKET and _takes_gzip(request):
        body = gzip.compress(body, 1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type="application/json")


def _takes_gzip(request: Request) -> bool:
    offered = request.headers.get("accept-encoding", "").lower().split(",")
    return any(one.strip().partition(";")[0] == "gzip" and "q=0" not in one for one in offered)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail + "\n", error.status_code, error.headers)
