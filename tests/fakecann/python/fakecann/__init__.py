"""The operators of the emulated CANN.

`tests/fakecann/README.md` says what they are evidence for, and what not.

Device memory is host memory, so an operator that computes needs no kernel of its own: torch's CPU
kernel runs over the same bytes.

    hostview    a device tensor as a CPU tensor over the same bytes
    fallback    runs a function on such views, and records its name
    aten        torch's own operators
    npu         operators that torch_npu and ATB add: a few, and the refusal of all others
    for_vllm    one Triton kernel
    vision      what lets torchvision be imported
"""

from __future__ import annotations

_installed = False


def install() -> None:
    """Register all operators, once. torch calls it in every process that imports torch."""
    global _installed
    if _installed:
        return
    _installed = True
    # Heavy, and torch_npu must not be imported before torch is.
    from fakecann import aten, npu, vision

    aten.install()
    npu.install()
    vision.declare()
