"""Settings of the loader: `--model-loader-extra-config`, `CONFIG_FILE` and the environment.

The first seven keys are vLLM Ascend Netloader's and mean what they mean there. Every other key can
also be set in the environment with `NETLOADER_` in front (`MESH_SEEDS` -> `NETLOADER_MESH_SEEDS`).
Precedence: `CONFIG_FILE`, then the extra config, then the environment. Both `SOURCE` lists are
used, that of `CONFIG_FILE` first. An unknown key or a bad value stops the start.
"""

from __future__ import annotations

from netloader.config.config import DRAFT_PORT_OFFSET, Config
from netloader.config.keys import KEYS, field_of
from netloader.config.settings import MIN_CHUNK_BYTES, MIN_RATE_LIMIT
from netloader.config.values import RankSources
from netloader.config.words import allowed

__all__ = [
    "DRAFT_PORT_OFFSET",
    "KEYS",
    "MIN_CHUNK_BYTES",
    "MIN_RATE_LIMIT",
    "Config",
    "RankSources",
    "allowed",
    "field_of",
]
