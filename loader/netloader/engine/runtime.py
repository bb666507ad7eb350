"""What shapes the `runtime` layout of a model, as far as vLLM and the environment tell it.

Post-processed tensors are equal only where the same code has made them, for the same kernels, on
the same kind of chip. The kernels are read from the built model (`kernels.py`). The environment
counts too, because vLLM reads some of its variables while it post-processes. vLLM itself says which
variables shape what is computed, for the key of its compile cache.
"""

from __future__ import annotations

import importlib.metadata
import os

import orjson
import torch
from torch import nn
from vllm import envs
from vllm.config import VllmConfig
from vllm.config.utils import normalize_value

from netloader.errors import IdentityError
from netloader.identity.identity import Fields
from netloader.model import kernels

_CODE = ("netloader-mesh", "torch-npu", "vllm-ascend")
"""Distributions that may have a part in post-processing, beside torch and vLLM."""


def parts(model: nn.Module, vllm_config: VllmConfig, device_type: str) -> Fields:
    """Parts of the identity that only the `runtime` layout has.

    Call when `model` is built and still empty. Raises `IdentityError`.
    """
    found: dict[str, str | int] = {
        "platform": device_type,
        "chip": kernels.chip(device_type),
        "code.torch": torch.__version__,
    }
    found |= {f"code.{name}": version for name in _CODE if (version := _version(name))}
    found |= kernels.chosen(model)
    found |= {
        f"env.{name}": str(value)
        for name, value in envs.compile_factors().items()
        # The others have their default, which the version tells.
        if name in os.environ
    }
    try:
        added = orjson.dumps(
            normalize_value(vllm_config.additional_config), option=orjson.OPT_SORT_KEYS
        )
    except (TypeError, ValueError) as error:
        raise IdentityError(f"additional_config cannot be compared: {error}") from error
    return found | {"additional_config": added.decode()}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
