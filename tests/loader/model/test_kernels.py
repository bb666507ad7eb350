from __future__ import annotations

import enum

import torch
from torch import nn

from netloader.model import kernels


class Backend(enum.Enum):
    MARLIN = 1


class Gemm:
    """A kernel."""

    def __init__(self) -> None:
        self.rows = 4


class Scheme:
    def __init__(self) -> None:
        self.kernel = Gemm()
        self.backend = Backend.MARLIN


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scheme = Scheme()
        self.implementation = Gemm
        self.inner = nn.Linear(1, 1)


def test_each_class_of_modules_names_the_objects_classes_and_enums_that_it_holds() -> None:
    model = nn.Sequential(Attention(), nn.Identity())
    text = "implementation=Gemm scheme.backend=MARLIN scheme.kernel=Gemm scheme=Scheme"
    assert kernels.chosen(model) == {"kernel.Attention": text}


def test_another_kernel_is_another_part() -> None:
    one, two = Attention(), Attention()
    two.scheme.kernel = Scheme()  # type: ignore[assignment]
    two.implementation = Scheme  # type: ignore[assignment]
    assert kernels.chosen(one) != kernels.chosen(two)


def test_a_processor_is_told_by_its_instructions() -> None:
    assert torch.backends.cpu.get_cpu_capability() in kernels.chip("cpu").split()
