"""Python's garbage collector while a model is loaded.

vLLM collects garbage twice in `load_model`, to free tensors that the load has left behind. A full
collection looks at every object in the process, and vLLM's imports create many. That takes a third
of a second each time, although those objects have nothing to do with the load.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Within this context, collect only objects made meanwhile.

    Afterwards earlier objects are collected again. If the heap is frozen already, as vLLM does in a
    process that serves, it stays frozen.
    """
    if gc.get_freeze_count() > 0:
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
