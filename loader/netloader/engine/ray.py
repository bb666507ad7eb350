"""Ray starts workers without the driver's environment. One of vLLM's executors for Ray copies the
variables that it knows, and those that are named in a variable of its own. The newer one copies
every variable that a worker has not, but for those in a set of vLLM's.

So each process of vLLM names our variables for the first. What is true of one host only is left out
there, and put into the set: vLLM keeps its own `VLLM_HOST_IP` from the workers as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
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
    named = _named(environ)
    if ours - named:
        environ[NAMES] = ",".join(sorted(named | ours))


def keep_apart(kept: set[str], environ: Mapping[str, str] = os.environ) -> None:
    """Add what stays on its host to the names that vLLM copies to nobody, `kept`. Idempotent.

    What the operator has named is copied all the same.
    """
    kept |= OF_ONE_HOST - _named(environ)


def _named(environ: Mapping[str, str]) -> set[str]:
    return {name.strip() for name in environ.get(NAMES, "").split(",")} - {""}
