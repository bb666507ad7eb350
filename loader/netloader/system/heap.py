"""Python's garbage collector while a model is loaded.

vLLM collects garbage twice in `load_model`, so that tensors which the load has left behind are
freed. A full collection looks at every object of the process, and after vLLM's imports these are
many: a third of a second each time, and none of it has to do with the load.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """While this lasts, collect only objects that are made meanwhile.

    Earlier ones are looked at again afterwards. Where somebody else has frozen the heap already,
    as vLLM does with a process that serves, it stays as they left it.
    """
    if gc.get_freeze_count() > 0:
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
