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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netmesh.address import Address
from netmesh.core.backoff import backed_off, shared
from netmesh.errors import MeshError

FAST_S = 1.0
"""Pause between rounds while nothing was found, because a start should not wait for bootstrap."""

SLOW_S = 15.0
"""Pause once contacts are known. A round costs a lookup and heals a split within this time."""

MOST_S = 600.0
"""The longest pause of all members together, once a member knows others."""

REST_S = 4 * 3600.0
"""The longest pause of one member of a large mesh."""

MAX_CONTACTS = 64
"""Addresses kept of one source, and handed on in one call; of more, a random sample is kept. The
protocol needs three."""


@dataclass(frozen=True, slots=True)
class ContactSource:
    """One place that knows addresses."""

    name: str
    find: Callable[[], list[Address]]
    """Blocking. Raises OSError or MeshError when it has no answer this time."""
    local: bool = False
    """True when asking costs nobody else anything: then its pause is not shared."""


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
        members: Callable[[], int] = lambda: 1,
    ) -> None:
        """`members` counts the live members, who share the cost of asking."""
        self._members = members
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
        began = time.monotonic()
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
            first = self._slow_s if addresses else self._fast_s
            if problem and not addresses:  # broken, so asked less often than an empty one
                first = 5 * self._fast_s
            asked, jitter = time.monotonic(), self._rng.uniform(0.8, 1.2)
            while not self._stop.is_set():
                # Members come and go meanwhile, so the pause is looked at again.
                members = 0 if source.local else self._members()
                pause = pause_s(first, asked - began, members, alone_s=self._slow_s)
                left = asked + jitter * pause - time.monotonic()
                if left <= 0:
                    break
                self._stop.wait(min(left, self._slow_s))


def pause_s(first_s: float, age_s: float, members: int, *, alone_s: float = SLOW_S) -> float:
    """Until a source is asked again, `age_s` seconds after it was asked first.

    A member that knows nobody asks every `alone_s` seconds at least. With others it shares the cost
    with them. With `members` 0 the pause stays the first one.
    """
    if members <= 1:
        return backed_off(age_s if members else 0.0, first_s, max(first_s, alone_s))
    return shared(backed_off(age_s, max(first_s, alone_s), MOST_S), members, REST_S)


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
