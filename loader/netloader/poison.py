"""Proof that storage has overwritten what an abandoned pull left behind.

A chunk that was under way into a large tensor when its source died has left some of its bytes
there, verified by nobody. Storage is read next and overwrites them, unless the checkpoint does not
carry that tensor. So these places are filled with a pattern first, and must have lost it after.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from netloader.errors import NetloaderError
from netloader.manifest import Piece
from netloader.weights import Weights, capture

PATTERN = 0xFF
"""NaN in every float format, absurd in every integer one."""


class LeftoverError(NetloaderError):
    """Storage did not overwrite what an abandoned pull had written."""


@dataclass(frozen=True)
class Poison:
    """Pieces of tensors that were filled with `PATTERN`."""

    names: tuple[tuple[str, Piece], ...]

    @classmethod
    def over(cls, weights: Weights, pieces: tuple[Piece, ...]) -> Poison:
        """Fill `pieces` of `weights`."""
        for piece in pieces:
            weights.view(piece).fill_(PATTERN)
        return cls(tuple((weights.manifest.tensors[piece.tensor].name, piece) for piece in pieces))

    def check_gone(self, model: nn.Module) -> None:
        """Raise `LeftoverError` when a filled piece of `model` still holds nothing but pattern."""
        if not self.names:
            return
        now = capture(model)
        positions = {tensor.name: at for at, tensor in enumerate(now.manifest.tensors)}
        for name, piece in self.names:
            position = positions.get(name)
            if position is None:
                continue
            data = now.tensors[position][piece.start : piece.start + piece.nbytes]
            if bool((data == PATTERN).all()):
                raise LeftoverError(
                    f"{name} was half received from a peer that died and is not in the checkpoint, "
                    "so its contents are lost: start again, with MESH off if it happens again"
                )
