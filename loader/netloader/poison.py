"""Proof that storage has overwritten what an abandoned pull left behind.

A chunk that was under way into a large tensor when its source died has left some of its bytes
there, verified by nobody. Storage is read next and overwrites them, unless the checkpoint does not
carry all of that tensor (padding, say). So these places are filled with a random word first, and
must have lost every copy of it after.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch
from torch import nn

from netloader.errors import NetloaderError
from netloader.manifest import Piece
from netloader.weights import Weights, capture

_WORD_BYTES = 8
"""Random, and long enough that no weights hold it by chance. A run of leftover bytes shorter than
twice this can go unnoticed; what checkpoints leave out are whole rows."""


class LeftoverError(NetloaderError):
    """Storage did not overwrite what an abandoned pull had written."""


@dataclass(frozen=True)
class Poison:
    """Pieces of tensors that were filled with copies of `word`."""

    names: tuple[tuple[str, Piece], ...]
    word: torch.Tensor
    """Shape [8], uint8, on the tensors' device."""

    @classmethod
    def over(cls, weights: Weights, pieces: tuple[Piece, ...]) -> Poison:
        """Fill `pieces` of `weights`."""
        word = torch.frombuffer(bytearray(secrets.token_bytes(_WORD_BYTES)), dtype=torch.uint8)
        for piece in pieces:
            view = weights.view(piece)
            word = word.to(view.device)
            whole = view.numel() - view.numel() % _WORD_BYTES
            view[:whole].view(-1, _WORD_BYTES).copy_(word)
            view[whole:].copy_(word[: view.numel() - whole])
        names = tuple((weights.manifest.tensors[piece.tensor].name, piece) for piece in pieces)
        return cls(names, word)

    def check_gone(self, model: nn.Module) -> None:
        """Raise `LeftoverError` when a filled piece of `model` still holds some of the fill."""
        if not self.names:
            return
        now = capture(model)
        positions = {tensor.name: at for at, tensor in enumerate(now.manifest.tensors)}
        for name, piece in self.names:
            position = positions.get(name)
            if position is None:
                continue
            data = now.tensors[position][piece.start : piece.start + piece.nbytes]
            whole = data.numel() - data.numel() % _WORD_BYTES
            if bool((data[:whole].view(-1, _WORD_BYTES) == self.word).all(dim=1).any()):
                raise LeftoverError(
                    f"{name} was half received from a peer that died and the checkpoint does not "
                    "fill all of it, so its contents are lost: start again, with MESH off if it "
                    "happens again"
                )
