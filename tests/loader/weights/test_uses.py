"""Whether a model still uses a tensor's bytes, wherever it holds them."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tests.loader.weights.retained_models import LARGE, Model, Twins, model
from torch import nn

from netloader.errors import ManifestError
from netloader.terms import KeepMode
from netloader.weights.capture import capture
from netloader.weights.coalesce import arrange
from netloader.weights.retain import keep, settle


def as_view(made: Model) -> None:
    made.large = nn.Parameter(made.large.view(2, -1), requires_grad=False)


def as_transposed(made: Model) -> None:
    made.large = nn.Parameter(made.large.view(2, -1).t(), requires_grad=False)


def as_slice(made: Model) -> None:
    made.large = nn.Parameter(made.large[-8:], requires_grad=False)


def as_strided_slice(made: Model) -> None:
    made.large = nn.Parameter(made.large.view(8, -1)[2:4, ::3], requires_grad=False)


def as_alias(made: Model) -> None:
    made.register_parameter("tied", made.large)
    del made.large


def as_attribute(made: Model) -> None:
    data = made.large.data
    del made.large
    object.__setattr__(made, "packed", data)


def in_container(made: Model) -> None:
    made.parts = [{"w": made.large.data}]
    del made.large


def in_kernel(made: Model) -> None:
    made.kernel = SimpleNamespace(weights=(made.large.data,))
    del made.large


def in_closure(made: Model) -> None:
    data = made.large.data
    made.apply_kernel = lambda: data
    del made.large


def in_partial(made: Model) -> None:
    made.apply_kernel = functools.partial(torch.add, made.large.data)
    del made.large


def on_parameter(made: Model) -> None:
    made.small.scale_of = made.large.data  # type: ignore[attr-defined]
    del made.large


USES = [
    *(as_view, as_transposed, as_slice, as_strided_slice, as_alias),
    *(as_attribute, in_container, in_kernel, in_closure, in_partial, on_parameter),
]


@pytest.mark.parametrize("arranged", [False, True])
@pytest.mark.parametrize("use", USES)
def test_tensor_whose_bytes_are_in_use_survived(
    use: Callable[[Model], None], arranged: bool
) -> None:
    made = Twins()
    if arranged:
        arrange(made)
    before = capture(made).sha256()
    kept = keep(capture(made), KeepMode.NO, None)
    use(made)
    originals = settle(kept, made)
    assert originals.weights.sha256() == before
    assert originals.cost_bytes == 0


def test_what_this_package_holds_is_no_use_by_the_model() -> None:
    made = model()
    weights = capture(made)
    kept = keep(weights, KeepMode.DRAM, None)
    made.large = nn.Parameter(torch.empty(0))
    made.loaded_by = weights
    assert settle(kept, made).extra_bytes == LARGE


def test_memory_that_was_used_again_is_not_taken_for_the_original() -> None:
    made = model()
    # A mapping of fixed place stands for an allocator that hands the same memory out again.
    place = mmap.mmap(-1, LARGE)
    made.large = nn.Parameter(torch.frombuffer(place, dtype=torch.uint8), requires_grad=False)
    kept = keep(capture(made), KeepMode.NO, None)
    made.large = nn.Parameter(torch.empty(0))
    made.packed = torch.frombuffer(place, dtype=torch.uint8)
    with pytest.raises(ManifestError, match="large first"):
        settle(kept, made)
