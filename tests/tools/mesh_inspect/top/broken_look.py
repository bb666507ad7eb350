"""The screen in a terminal, over a mesh whose second look ends in a fault of our own."""

from __future__ import annotations

import sys

from pydantic import SecretStr
from tests.tools.mesh_inspect.support import PlayedMesh, holding, member

from mesh_inspect.looking import Inquiry, Means
from mesh_inspect.top.terminal import run
from netmesh import Member, MeshSettings

KEY = "5ec3e75" * 9 + "1"
"""Must not be seen by whoever reads the trace."""


class KeyedMesh(PlayedMesh):
    """Looks once."""

    def __call__(self, settings: MeshSettings, *, seeds_only: bool) -> PlayedMesh:
        assert settings.key == SecretStr(KEY)
        return super().__call__(settings, seeds_only=seeds_only)

    def look(self, timeout_s: float = 3.0) -> tuple[Member, ...]:
        if self.asked_s:
            raise ArithmeticError("a fault of our own")
        return super().look(timeout_s)


if __name__ == "__main__":
    mesh = KeyedMesh((member(holding("org/a")),))
    sys.exit(run(Inquiry(Means(observer=mesh)), mouse=True))
