"""The `runtime` layout on an NPU: bytes as they lie, in any format, and host tensors beside."""

from __future__ import annotations

import pytest
import torch
import torch_npu
from torch import nn

from netloader.errors import ManifestError
from netloader.model import processed
from netloader.weights import dummies
from netloader.weights.capture import Weights
from netloader.weights.digests import of_weights
from netloader.weights.manifest import difference
from tests.ascend.test_weights import DEVICE, NZ, PROCESSES, SHAPES, Model

CHUNK = 64 * 1024


@pytest.fixture(autouse=True)
def internal_formats() -> None:
    torch.npu.config.allow_internal_format = True


class Kernel:
    def __init__(self, scale: torch.Tensor, seed: int) -> None:
        self.absorbed = [scale + seed]
        self.lengths = torch.full((3,), seed, dtype=torch.int32)


def made(seed: int, process: str, *, dummy: bool = False) -> Model:
    """A model after post-processing, of weights or of dummies."""
    model = Model(seed)
    if dummy:
        dummies.fill(model)
    for name in SHAPES:
        tensor = PROCESSES[process](getattr(model, name).data)
        setattr(model, name, nn.Parameter(tensor, requires_grad=False))
    model.kernel = Kernel(model.get_buffer("scale"), seed)
    return model


def pull(target: Weights, source: Weights) -> None:
    """Every chunk by way of staging memory, as a session and a stream have it."""
    for chunk in target.manifest.chunks():
        sent, received = source.pack(chunk, source.staging()), target.contiguous(chunk)
        if received is not None:
            received.copy_(sent)
        else:
            staging = target.staging()
            staging[: chunk.nbytes].copy_(sent)
            target.unpack(chunk, staging)


@pytest.mark.parametrize("process", [name for name in PROCESSES if "int32" not in name])
def test_a_model_of_dummies_becomes_its_source(process: str) -> None:
    source, replica = made(1, process), made(2, process, dummy=True)
    theirs, mine = processed.take(source, CHUNK), processed.take(replica, CHUNK)
    assert difference(mine.weights.manifest, theirs.weights.manifest) is None
    assert mine.state == theirs.state
    chunks = theirs.weights.manifest.chunks()
    promised = of_weights(theirs.weights, chunks)
    pull(mine.weights, theirs.weights)
    assert of_weights(mine.weights, chunks) == promised
    for name, tensor in source.named_parameters():
        other = replica.get_parameter(name)
        assert torch_npu.get_npu_format(other) == torch_npu.get_npu_format(tensor)
        assert torch.equal(other.cpu(), tensor.cpu()), name
    assert torch.equal(replica.kernel.absorbed[0].cpu(), source.kernel.absorbed[0].cpu())
    assert replica.kernel.lengths.tolist() == [1, 1, 1]


def test_wide_integers_in_a_format_of_the_device_are_refused() -> None:
    """torch_npu reads other values from equal bytes of them."""
    with pytest.raises(ManifestError, match=r"torch\.int32 in FRACTAL_NZ"):
        processed.take(made(1, "turned, NZ, as int32"), CHUNK)


def test_another_format_is_another_manifest() -> None:
    one, other = made(1, "nothing"), made(1, "NZ")
    manifests = [processed.take(model, CHUNK).weights.manifest for model in (one, other)]
    assert difference(*manifests) is not None
    assert any("as FRACTAL_NZ" in alias for one in manifests[1].tensors for alias in one.aliases)
    assert torch_npu.get_npu_format(other.dense) == NZ
    assert other.dense.device.type == torch.device(DEVICE).type
