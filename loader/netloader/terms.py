"""Terms that several rooms share: closed sets of values, and a setting common to both ends."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

TransferTimeout = Annotated[float, Field(gt=0, le=3600)]
"""Seconds without any progress after which the other end of a transfer is given up
(`TRANSFER_TIMEOUT`)."""

TRANSFER_TIMEOUT_S: Final = 30.0
"""The default is longer than the longest pause of a healthy process: compiling holds the GIL for
seconds."""


class KeepMode(StrEnum):
    """Where a source keeps the originals of tensors that post-processing rewrites."""

    HBM = "hbm"
    """On the model's device. On CPU this is the same as `dram`."""
    DRAM = "dram"
    """In host memory."""
    NO = "no"
    """Nowhere: a model whose originals do not survive post-processing cannot be served."""


class UpstreamUse(StrEnum):
    """Which transfers with vLLM Ascend's own Netloader are allowed. They prove nothing: neither
    end has a key, and nothing says which bytes are right."""

    OFF = "off"
    SERVE = "serve"
    """Its replicas may pull from this worker."""
    PULL = "pull"
    """This worker may pull from its servers."""
    BOTH = "both"

    @property
    def serves(self) -> bool:
        return self in (UpstreamUse.SERVE, UpstreamUse.BOTH)

    @property
    def pulls(self) -> bool:
        return self in (UpstreamUse.PULL, UpstreamUse.BOTH)
