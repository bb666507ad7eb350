"""Ray starts workers without the driver's environment. vLLM copies the variables that it knows, and
those that are named in a variable of its own.

So each process of vLLM names our variables there. What is true of one host only is left out: vLLM
keeps its own `VLLM_HOST_IP` from the workers as well.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

NAMES: Final = "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY"
"""vLLM's variable: names of variables to copy, with commas between them."""

PREFIX: Final = "NETLOADER_"
"""Repeated here: `program.py`, which has it, imports the mesh."""

OF_ONE_HOST: Final = frozenset(
    f"{PREFIX}{key}" for key in ("BIND", "MESH_ADVERTISE", "METRICS_HOST")
)


def share_settings(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let vLLM copy our settings to workers that Ray starts. Idempotent."""
    ours = {name for name in environ if name.startswith(PREFIX)} - OF_ONE_HOST
    named = {name.strip() for name in environ.get(NAMES, "").split(",")} - {""}
    if ours - named:
        environ[NAMES] = ",".join(sorted(named | ours))
