"""Proof that storage has overwritten what an abandoned pull left behind.

If a source dies while a chunk is arriving in a model's memory, some of the chunk's bytes stay there
unverified. The read from storage that follows overwrites them, unless the checkpoint lacks part of
that tensor (padding, say). If a tensor's earlier contents are known, they are put back. Otherwise
the tensor is filled with a random word, and no copy of the word may be left after the read.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch
from torch import nn

from netloader.errors import NetloaderError
from netloader.weights.capture import Weights, capture
from netloader.weights.manifest import Piece

_WORD_BYTES = 8
"""The word is random, and long enough that no weights hold it by chance. A run of leftover bytes
shorter than twice this can go unnoticed, unless the piece itself is shorter. Checkpoints leave out
whole rows."""


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
        """Fill `pieces` of `weights`, or restore a piece's initial contents if they are known."""
        word = torch.frombuffer(bytearray(secrets.token_bytes(_WORD_BYTES)), dtype=torch.uint8)
        # No boolean has such a byte, and a piece may be only one byte.
        word.bitwise_or_(2)
        unknown: list[Piece] = []
        for piece in pieces:
            if weights.put_back(piece):
                continue
            unknown.append(piece)
            view = weights.view(piece)
            word = word.to(view.device)
            whole = view.numel() - view.numel() % _WORD_BYTES
            view[:whole].view(-1, _WORD_BYTES).copy_(word)
            view[whole:].copy_(word[: view.numel() - whole])
        names = tuple((weights.manifest.tensors[piece.tensor].name, piece) for piece in unknown)
        return cls(names, word)

    def check_gone(self, model: nn.Module) -> None:
        """Raise `LeftoverError` if a filled piece of `model` still holds some of the fill."""
        if not self.names:
            return
        now = capture(model)
        positions = {tensor.name: at for at, tensor in enumerate(now.manifest.tensors)}
        for name, piece in self.names:
            position = positions.get(name)
            if position is None:
                continue
            data = now.tensors[position][piece.start : piece.start + piece.nbytes]
            if _holds(data, self.word):
                raise LeftoverError(
                    f"{name} was half received from a peer that died and the checkpoint does not "
                    "fill all of it, so its contents are lost: start again, with MESH off if it "
                    "happens again"
                )


def _holds(data: torch.Tensor, word: torch.Tensor) -> bool:
    """Whether a copy of `word` is left in `data`, which was filled with it."""
    if 0 < data.numel() < _WORD_BYTES:
        # If the few bytes match by chance, the only cost is one more read of storage.
        return torch.equal(data, word[: data.numel()])
    whole = data.numel() - data.numel() % _WORD_BYTES
    return bool((data[:whole].view(-1, _WORD_BYTES) == word).all(dim=1).any())
