"""What the garbage collector looks at while a model is loaded."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import weakref

from netloader.system.heap import only_new_garbage


class _Cycle:
    """Garbage that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_of_the_load_is_freed_during_it_and_older_garbage_after_it() -> None:
    gc.collect()
    gc.disable()
    try:
        older = weakref.ref(_Cycle())
        with only_new_garbage():
            newer = weakref.ref(_Cycle())
            gc.collect()
            assert newer() is None
            assert older() is not None
        gc.collect()
        assert older() is None
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_load_that_fails_leaves_the_collector_as_it_was() -> None:
    try:
        with only_new_garbage():
            raise ValueError("no such file")
    except ValueError:
        pass
    assert gc.get_freeze_count() == 0


def test_a_heap_that_somebody_else_has_frozen_stays_frozen() -> None:
    # In a process of its own: this one's heap would be frozen for every later test.
    script = """
        import gc
        from netloader.system.heap import only_new_garbage
        gc.freeze()
        before = gc.get_freeze_count()
        with only_new_garbage():
            assert gc.get_freeze_count() == before
        assert gc.get_freeze_count() == before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)
