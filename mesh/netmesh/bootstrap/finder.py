"""Looks for first contacts, for ever, on threads of its own.

Asking again heals a split start: members that came up while DNS was down, or before the seed, find
the others in a later round. A resolver may hang for many seconds, so each source has a thread of
its own, apart from the gossip thread.
"""

from __future__ import annotations

import itertools
import logging
import random
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netmesh.address import Address
from netmesh.errors import MeshError

FAST_S = 1.0
"""Pause between rounds while nothing was found, because a start should not wait for bootstrap."""

SLOW_S = 15.0
"""Pause once contacts are known. A round costs a lookup and heals a split within this time."""

MAX_CONTACTS = 64
"""Addresses kept of one source, and handed on in one call; of more, a random sample is kept. The
protocol needs three."""


@dataclass(frozen=True, slots=True)
class ContactSource:
    """One place that knows addresses."""

    name: str
    find: Callable[[], list[Address]]
    """Blocking. Raises OSError or MeshError when it has no answer this time."""


class Finder:
    """Runs the sources in daemon threads until stopped; `found` gets all known addresses each time.

    A source that fails keeps its last answer: contacts must not vanish when a resolver is down.

    Promises neither an order nor that an address is alive. `accept` filters out addresses that
    cannot be contacts. `found` gets an empty answer only when every source has answered and none
    knows anybody. That means "you are the first", which no single source can tell.
    """

    def __init__(
        self,
        sources: Sequence[ContactSource],
        found: Callable[[tuple[Address, ...]], None],
        accept: Callable[[Address], bool],
        log: logging.Logger,
        *,
        fast_s: float = FAST_S,
        slow_s: float = SLOW_S,
    ) -> None:
        self._fast_s = fast_s
        self._slow_s = slow_s
        self._sources = tuple(sources)
        self._found = found
        self._accept = accept
        self._log = log
        self._stop = threading.Event()
        self._rng = random.Random()
        self._lock = threading.Lock()
        self._known: dict[ContactSource, tuple[Address, ...]] = {}

    def start(self) -> None:
        for source in self._sources:
            name = f"netmesh-bootstrap-{source.name}"[:40]
            threading.Thread(target=self._run, args=(source,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Ask the threads to end. Does not wait for a resolver that hangs."""
        self._stop.set()

    def _run(self, source: ContactSource) -> None:
        complaint = ""
        while not self._stop.is_set():
            addresses, problem = ask(source, self._accept, self._rng)
            if problem and problem != complaint:
                self._log.warning("mesh bootstrap: %s: %s", source.name, problem)
            complaint = problem
            with self._lock:
                if addresses or not problem or source not in self._known:
                    self._known[source] = addresses
                everything = tuple(dict.fromkeys(itertools.chain(*self._known.values())))
                all_answered = len(self._known) == len(self._sources)
                if (everything or all_answered) and not self._stop.is_set():
                    self._found(everything[:MAX_CONTACTS])
            pause = self._slow_s if addresses else self._fast_s
            if problem:  # a broken resolver or command is asked less often than an empty one
                pause = 5 * self._fast_s
            self._stop.wait(pause * self._rng.uniform(0.8, 1.2))


def ask(
    source: ContactSource, accept: Callable[[Address], bool], rng: random.Random
) -> tuple[tuple[Address, ...], str]:
    """One round: the acceptable addresses, and what went wrong ("" if nothing did)."""
    try:
        found = list(dict.fromkeys(source.find()))
    except (OSError, MeshError, subprocess.SubprocessError) as error:
        return (), str(error)
    except Exception as error:  # a thread of ours must not die of one odd answer
        logging.getLogger(__name__).debug("source %s failed", source.name, exc_info=True)
        return (), f"{type(error).__name__}: {error}"
    good = [address for address in found if accept(address)]
    refused = len(found) - len(good)
    problem = f"{refused} addresses refused: not reachable from this member" if refused else ""
    if len(good) > MAX_CONTACTS:
        good = rng.sample(good, MAX_CONTACTS)
    return tuple(good), problem
