"""Members of a test, in its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.meshes import OWN_MESH

from netmesh import JsonObject, Member, Mesh, MeshSettings

Start = Callable[..., Mesh]


@contextmanager
def starting(directory: Path) -> Iterator[Start]:
    """Starts members that share a directory and closes them afterwards."""
    started: list[Mesh] = []

    def make(advert: JsonObject | None = None, **settings: object) -> Mesh:
        settings = {"name": OWN_MESH, "directory": directory} | settings
        mesh = Mesh.start(MeshSettings.model_validate(settings), advert or {})
        started.append(mesh)
        return mesh

    try:
        yield make
    finally:
        for mesh in started:
            mesh.close()


def size(count: int) -> Callable[[tuple[Member, ...]], bool]:
    return lambda members: sum(member.selectable for member in members) == count


def observing(**settings: object) -> MeshSettings:
    """Settings of one who looks at the members that `start` makes."""
    return MeshSettings.model_validate({"name": OWN_MESH} | settings)
