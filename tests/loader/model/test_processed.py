"""The `runtime` layout: everything that a post-processed model holds, as runs of memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from netloader.errors import ManifestError
from netloader.model import processed
from netloader.model.fingerprint import reach
from netloader.weights.manifest import decode, difference

CHUNK = 64 * 1024


class Kernel:
    """Stands for what post-processing makes."""

    def __init__(self, weight: torch.Tensor, scale: float) -> None:
        self.scale = scale
        self.turned = weight.t()
        self.tables = {"up": torch.arange(5.0) * scale, "deep": [torch.full((3,), scale)]}


class Handle:
    """Stands for a library's own copy of weights."""

    def __del__(self) -> None:
        """Would free it."""


class Made(nn.Module):
    """A model after post-processing: tensors everywhere."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.linear = nn.Linear(40, 30, bias=False)
        self.tied = self.linear
        self.linear.weight.data.normal_(generator=generator)
        self.kernel: object = Kernel(self.linear.weight.data, 0.5)
        self.W_UV = torch.randn(4, 8, 2, generator=generator).transpose(0, 1)
        self.part = self.linear.weight.data[:, 3:7]
        self.register_buffer("table", torch.randn(9, generator=generator), persistent=False)
        self.none = torch.empty(0, 7)
        self.count = 3


def bytes_of(model: nn.Module) -> dict[str, bytes]:
    """What each tensor of a model holds, by name, as torch shows it."""
    return {
        one.name: one.tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for one in reach(model).tensors
    }


def test_every_tensor_is_filled_wherever_it_is_held() -> None:
    mine, theirs = Made(1), Made(2)
    own, other = processed.take(mine, CHUNK), processed.take(theirs, CHUNK)
    assert difference(own.weights.manifest, other.weights.manifest) is None
    before = bytes_of(mine)
    for target, source in zip(own.weights.tensors, other.weights.tensors, strict=True):
        target.copy_(source)
    assert bytes_of(mine) == bytes_of(theirs)
    # Nothing was equal by chance.
    assert {name for name, data in before.items() if data != bytes_of(theirs)[name]} == {
        "linear.weight",
        "tied.weight",
        "table",
        "kernel.turned",
        "W_UV",
        "part",
    }


def test_tensors_that_share_memory_are_one_run_and_travel_once() -> None:
    manifest = processed.take(Made(), CHUNK).weights.manifest
    named = {tensor.name: tensor for tensor in manifest.tensors}
    weight = named["linear.weight"]
    assert (weight.nbytes, weight.kind) == (40 * 30 * 4, "parameter")
    assert [alias.partition(":")[0] for alias in weight.aliases] == [
        "tied.weight",
        "part",
        "kernel.turned",
    ]
    assert weight.aliases[1].endswith("(30, 4) (40, 1) at byte 12")
    assert {name: one.kind for name, one in named.items()} == {
        "linear.weight": "parameter",
        "table": "buffer",
        "W_UV": "attribute",
        "none": "attribute",
        "kernel.tables['up']": "attribute",
        "kernel.tables['deep'][0]": "attribute",
    }
    assert manifest.layout == "runtime"
    assert decode(manifest.encode()) == manifest


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "W_UV", model.W_UV.contiguous()),
        lambda model: setattr(model, "W_UV", model.W_UV.double()),
        lambda model: setattr(model, "part", model.part.clone()),
        lambda model: setattr(model, "part", model.linear.weight.data[:, 4:8]),
        lambda model: setattr(model, "more", torch.ones(2)),
        lambda model: setattr(model, "none", torch.empty(7, 0)),
        lambda model: setattr(model, "none", torch.empty(0, 7, device="meta")),
    ],
    ids=["stride", "dtype", "own memory", "other place", "one more", "empty", "meta"],
)
def test_every_difference_in_structure_is_one_of_the_manifest(
    change: Callable[[Made], object],
) -> None:
    other = Made()
    change(other)
    one, two = (processed.take(model, CHUNK).weights.manifest for model in (Made(), other))
    assert difference(one, two) is not None


@pytest.mark.parametrize("settings", [3, "b", True, None, [1], {"a": 1.5}, (Kernel, 2)])
def test_every_difference_beside_the_tensors_is_one_of_the_state(settings: object) -> None:
    other = Made()
    other.setting = settings  # type: ignore[assignment]
    plain = Made()
    plain.setting = 4  # type: ignore[assignment]
    assert processed.take(other, CHUNK).state != processed.take(plain, CHUNK).state
    other.setting = 4  # type: ignore[assignment]
    assert processed.state(other) == processed.state(plain)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Handle(), "handle: a .*Handle, which owns something outside Python"),
        ([Handle()], "owns something outside Python"),
        (object(), "handle: a builtins.object, which nothing can look into"),
        (torch.ones(2, 2).to_sparse(), "handle cannot travel: a Tensor hides its bytes"),
    ],
)
def test_what_no_tensor_shows_is_refused(value: object, reason: str) -> None:
    model = Made()
    model.handle = value  # type: ignore[assignment]
    with pytest.raises(ManifestError, match=reason):
        processed.take(model, CHUNK)


def test_addresses_are_refused_wherever_they_point() -> None:
    model = Made()
    pointers = [model.linear.weight.data_ptr(), model.W_UV.data_ptr() + 8, id(model)]
    for pointer in pointers:
        model.pointers = torch.tensor([0, pointer])
        with pytest.raises(ManifestError, match="pointers holds an address of this process"):
            processed.take(model, CHUNK)
    model.pointers = torch.tensor([0, 5, -1, 2**62])
    processed.take(model, CHUNK)


def test_what_a_model_writes_to_while_it_runs_is_served_from_a_copy() -> None:
    model = Made()
    served = processed.take(model, CHUNK).to_serve().weights
    promised = [data.clone() for data in served.tensors]
    model.get_buffer("table").zero_()
    model.W_UV.zero_()
    assert all(torch.equal(a, b) for a, b in zip(served.tensors, promised, strict=True))
    # Weights are served where they lie: there is no room for two of them.
    places = [data.data_ptr() for data in served.tensors]
    names = [tensor.name for tensor in served.manifest.tensors]
    assert places[names.index("linear.weight")] == model.linear.weight.data_ptr()
