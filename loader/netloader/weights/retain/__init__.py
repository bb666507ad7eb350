"""Keeps what a source needs to serve its weights after vLLM has post-processed them.

A peer needs the bytes as `load_weights` left them. On CUDA most tensors survive post-processing in
place. On Ascend linear weights may change their format and the order of their dimensions, from
which the bytes are read back (`formats.py`). On CPUs with AVX-512 vLLM packs every linear weight
and drops the original. So there are three steps:

    plan      before the model is laid out: what shall be kept, and does it fit into memory?
    keep      before post-processing: hold what would be lost, and nothing else
    settle    after post-processing: what survived, can all be served, and what does that cost?

A tensor survives if a tensor of the model still uses its *own* bytes. A living storage proves
nothing: `coalesce` lets the tensors of a chunk share one. That a tensor of the same name, type and
shape took its place proves nothing either: vLLM may have quantised or permuted the values. So all
that `settle` returns has to be compared with the digests of the weights as loaded (`changed`).
"""

from __future__ import annotations

from netloader.weights.retain.keeping import Held, Kept, Place, keep
from netloader.weights.retain.planning import HEADROOM_BYTES, Plan, fits, plan
from netloader.weights.retain.settling import Originals, changed, settle

__all__ = [
    "HEADROOM_BYTES",
    "Held",
    "Kept",
    "Originals",
    "Place",
    "Plan",
    "changed",
    "fits",
    "keep",
    "plan",
    "settle",
]
