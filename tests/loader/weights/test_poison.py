from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from netloader.weights.capture import capture
from netloader.weights.manifest import Piece
from netloader.weights.poison import LeftoverError, Poison


class Model(nn.Module):
    def __init__(self, numel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(numel, dtype=torch.uint8), requires_grad=False)


def model(numel: int = 1000) -> Model:
    return Model(numel)


def test_piece_that_storage_has_overwritten_is_fine() -> None:
    made = model()
    poison = Poison.over(capture(made), (Piece(0, 100, 500),))
    made.weight.data.fill_(3)
    poison.check_gone(made)


@pytest.mark.parametrize("value", [0x00, 0xFF, 0x77])
def test_weights_of_one_and_the_same_byte_are_not_taken_for_leftovers(value: int) -> None:
    made = model()
    poison = Poison.over(capture(made), (Piece(0, 0, 1000),))
    made.weight.data.fill_(value)
    poison.check_gone(made)


def test_piece_that_is_not_in_the_checkpoint_is_an_error() -> None:
    made = model()
    poison = Poison.over(capture(made), (Piece(0, 100, 500),))
    with pytest.raises(LeftoverError, match="weight was half received"):
        poison.check_gone(made)


def test_padding_that_storage_leaves_out_is_an_error() -> None:
    made = model()
    poison = Poison.over(capture(made), (Piece(0, 0, 1000),))
    made.weight.data[:960].fill_(3)
    with pytest.raises(LeftoverError):
        poison.check_gone(made)


def test_only_the_given_pieces_are_filled() -> None:
    made = model()
    Poison.over(capture(made), (Piece(0, 100, 501),))
    assert not made.weight[:100].any()
    assert not made.weight[601:].any()
    assert made.weight[100:601].any()


def test_replaced_tensor_is_checked_by_its_name() -> None:
    made = model()
    poison = Poison.over(capture(made), (Piece(0, 0, 1000),))
    made.weight = nn.Parameter(torch.zeros(1000, dtype=torch.uint8), requires_grad=False)
    poison.check_gone(made)
    made.weight = nn.Parameter(torch.zeros(0, dtype=torch.uint8), requires_grad=False)
    poison.check_gone(made)


@pytest.mark.parametrize("nbytes", [1, 7, 8, 9])
def test_tiny_pieces(nbytes: int) -> None:
    made = model(16)
    poison = Poison.over(capture(made), (Piece(0, 3, nbytes),))
    made.weight.data.zero_()
    poison.check_gone(made)


@pytest.mark.parametrize("nbytes", [1, 2, 7])
def test_tiny_tensor_that_storage_leaves_out_is_an_error(nbytes: int) -> None:
    made = model(nbytes)
    poison = Poison.over(capture(made), (Piece(0, 0, nbytes),))
    with pytest.raises(LeftoverError):
        poison.check_gone(made)


@pytest.mark.parametrize("value", [0, 1])
def test_boolean_is_never_taken_for_a_leftover(value: int) -> None:
    for _ in range(50):
        made = model(1)
        poison = Poison.over(capture(made), (Piece(0, 0, 1),))
        made.weight.data.fill_(value)
        poison.check_gone(made)


def test_tensor_whose_first_contents_are_known_gets_them_back() -> None:
    made = model()
    weights = capture(made)
    first = torch.arange(1000).to(torch.uint8)
    weights = dataclasses.replace(weights, initial={0: ((0, first),)})
    made.weight.data.fill_(9)
    Poison.over(weights, (Piece(0, 100, 500),)).check_gone(made)
    assert torch.equal(made.weight[100:600], first[100:600])
    assert bool((made.weight[:100] == 9).all()) and bool((made.weight[600:] == 9).all())


def test_nothing_to_fill() -> None:
    Poison.over(capture(model()), ()).check_gone(model())
