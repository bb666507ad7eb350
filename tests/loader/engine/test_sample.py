"""Which tensors of a checkpoint are compared, and how they get into the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import WeightFile
from netloader.checkpoint.wanted import Files
from netloader.engine.sample import FileTensor, chosen, load_sample
from netloader.errors import IdentityError

MEBIBYTE = 1 << 20


def stored(*names: str, nbytes: int = 8) -> list[FileTensor]:
    return [FileTensor("file", name, "", nbytes) for name in names]


def names(sample: Iterable[FileTensor]) -> list[str]:
    return [one.prefix + one.name for one in sample]


def test_each_kind_gives_three_spread_over_the_layers() -> None:
    layers = stored(*(f"layers.{number}.q.weight" for number in range(60)))
    found = names(chosen([*stored("embed.weight", "norm.weight"), *layers]))
    assert found[:2] == ["embed.weight", "norm.weight"]
    assert found[2:] == [f"layers.{number}.q.weight" for number in (10, 30, 50)]


def test_a_kind_of_few_gives_all_of_them() -> None:
    assert names(chosen(stored("l.0.w", "l.1.w"))) == ["l.0.w", "l.1.w"]


def test_of_large_tensors_one_is_enough() -> None:
    layers = stored(*(f"l.{number}.w" for number in range(9)), nbytes=300 * MEBIBYTE)
    assert names(chosen(layers)) == ["l.4.w"]


def test_experts_count_as_one_kind_in_all_layers() -> None:
    experts = stored(*(f"l.{a}.experts.{b}.w" for a in range(10) for b in range(64)))
    assert len(chosen(experts)) == 3


def test_prefixes_keep_kinds_apart() -> None:
    one, other = FileTensor("f", "w", "a.", 8), FileTensor("f", "w", "b.", 8)
    assert names(chosen([one, other])) == ["a.w", "b.w"]


class Loads(nn.Module):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.given = dict(weights)


def files(folder: Path, *parts: dict[str, torch.Tensor], prefix: str = "") -> Files:
    found = []
    for number, part in enumerate(parts):
        path = folder / f"{number}.safetensors"
        save_file(part, path)
        found.append(WeightFile(path, prefix))
    return Files(tuple(found), frozenset({folder}), evidence.stamps(found))


def test_the_model_itself_loads_the_sample(tmp_path: Path) -> None:
    parts = [{"embed": torch.ones(4)}, {f"l.{n}.w": torch.full((2,), n) for n in range(9)}]
    model = Loads()
    nbytes = load_sample(model, files(tmp_path, *parts, prefix="model."))
    assert sorted(model.given) == ["model.embed", "model.l.1.w", "model.l.4.w", "model.l.7.w"]
    assert model.given["model.l.4.w"].tolist() == [4, 4]
    assert nbytes == 4 * 4 + 3 * 2 * 8


def test_files_that_cannot_be_read_one_by_one_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"x")
    found = (WeightFile(path),)
    with pytest.raises(IdentityError, match="is not safetensors"):
        load_sample(Loads(), Files(found, frozenset({tmp_path}), evidence.stamps(found)))


def test_a_model_that_does_not_load_by_itself_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="does not load weights by itself"):
        load_sample(nn.Linear(2, 2), files(tmp_path, {"w": torch.ones(1)}))


def test_a_checkpoint_without_tensors_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="has no tensors"):
        load_sample(Loads(), Files((), frozenset(), ()))
