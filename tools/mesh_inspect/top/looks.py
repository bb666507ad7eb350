"""The thread that looks at the mesh, so that the screen answers to keys meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from mesh_inspect.looking import Inquiry, nobody_answered
from mesh_inspect.watching import INTERVAL_S, Lookout, Sight
from netmesh import NoMeshError, SettingsError

LAST_S: Final = 0.5
"""How long the end waits for the look that is going on."""

MOST_WARNINGS: Final = 50
"""That are handed on: others may have written parts of them."""


class Teller(Protocol):
    """Who is told what a look shows, from another thread."""

    def looked(self, sight: Sight) -> None: ...

    def warned(self, text: str) -> None: ...

    def broke(self, error: BaseException) -> None: ...


@contextmanager
def looking(inquiry: Inquiry, teller: Teller) -> Iterator[None]:
    """Look once a second, until the block ends. Raises SettingsError."""
    stop = threading.Event()
    means = inquiry.means
    observer = means.observer(inquiry.settings, seeds_only=inquiry.seeds_only)
    lookout = Lookout(
        observer, timeout_s=inquiry.timeout_s, monotonic=means.monotonic, wall_s=means.wall_s
    )

    def look() -> None:
        try:
            while not stop.is_set():
                due = means.monotonic() + INTERVAL_S
                teller.looked(_sight(lookout, inquiry))
                stop.wait(max(0.0, due - means.monotonic()))
        except Exception as error:  # noqa: BLE001 - the screen ends with it
            teller.broke(error)
        finally:
            observer.close()

    thread = threading.Thread(target=look, name="mesh-inspect-looks", daemon=True)
    with _warnings(teller.warned):
        thread.start()
        try:
            yield
        finally:
            stop.set()
            # A last look that nobody answers ends with the process.
            thread.join(LAST_S)


def _sight(lookout: Lookout, inquiry: Inquiry) -> Sight:
    # Who has not answered yet may still come.
    try:
        return lookout.look()
    except NoMeshError as error:
        why = nobody_answered(error, inquiry.settings, seeds_only=inquiry.seeds_only)
    except SettingsError as error:
        why = str(error)
    return Sight(inquiry.means.wall_s(), (), (), why)


@contextmanager
def _warnings(warned: Callable[[str], None]) -> Iterator[None]:
    """Hand on what the mesh warns of, each warning once."""
    said: set[str] = set()

    class Once(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text not in said and len(said) < MOST_WARNINGS:
                said.add(text)
                warned(text)

    logger, handler = logging.getLogger("netmesh"), Once(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
