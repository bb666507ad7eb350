"""Which versions of vLLM Netloader works with, and what differs between them.

`tests/loader/engine/vllm_interface.json` has what each of these versions offers of all that the
engine room uses. `test_vllm_interface.py` compares the two, and compares the tables below with that
file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from netloader.errors import UnsupportedError

FIRST: Final = (0, 18)
LAST: Final = (0, 33)
"""Major and minor of the oldest and the newest vLLM that was checked. Both count."""

ANY_VLLM: Final = "NETLOADER_ANY_VLLM"
"""Environment variable; `1` turns the refusal of other versions off. It is no key of the extra
config, because it must be known before anything is imported that may not exist."""

_STORAGE: Final = "vllm.model_executor.model_loader.default_loader.DefaultModelLoader"

SINCE: Final[Mapping[str, tuple[int, int]]] = {
    "vllm.config.model.ModelConfig.quantization_config": (0, 20),
    "vllm.distributed.parallel_state.get_engram_dp_group": (0, 30),
    "vllm.distributed.parallel_state.get_etp_group": (0, 30),
    f"{_STORAGE}._init_mm_encoder_only_weight_filter": (0, 31),
}
"""What only later versions have, and since which. The engine room asks `later` for these parts and
takes all others for granted."""


def check(version: str, environ: Mapping[str, str]) -> None:
    """Raises `UnsupportedError` for a vLLM that was not checked, unless `ANY_VLLM` allows it."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is not None and FIRST <= (int(found[1]), int(found[2])) <= LAST:
        return
    if environ.get(ANY_VLLM) != "1":
        raise UnsupportedError(version, supported(), f"set {ANY_VLLM}=1 to try it all the same")


def supported() -> str:
    """The range, in words."""
    return f"{_words(FIRST)} to {_words(LAST)}"


def later(owner: object, name: str) -> object | None:
    """The part of a vLLM module or object that only later versions have; None where it is not."""
    return getattr(owner, name, None)


def _words(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
