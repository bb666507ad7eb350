"""What is known about a checkpoint's content: which files hold it, and what evidence they give.

Evidence is made only when a peer makes it worth reading. It is made from exactly the files that
this worker's storage leg reads (`storage.py` asks vLLM). Files that change meanwhile are noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import Stamp, WeightFile
from netloader.checkpoint.hostcache import HostCache
from netloader.errors import ConfigError
from netloader.identity.identity import Evidence, LazyContent
from netloader.system import tracing


@dataclass(frozen=True)
class Files:
    """The files of one checkpoint, as they were at the last look."""

    files: tuple[WeightFile, ...]
    """In the order in which the loader gets them."""
    folders: frozenset[Path]
    """The folders that hold them."""
    stamps: tuple[Stamp, ...]

    @property
    def paths(self) -> frozenset[Path]:
        """Paths of the files, links resolved."""
        return frozenset(file.path.resolve() for file in self.files)

    def makers(
        self, cache: HostCache | None, *, full: bool
    ) -> dict[Evidence, Callable[[], str | None]]:
        """A function for each kind of evidence that these files can give."""
        made: dict[Evidence, Callable[[], str | None]] = {
            Evidence.BLOBS: lambda: evidence.blobs(self.files),
            Evidence.SAMPLE: lambda: evidence.sample(self.files, cache),
        }
        if full:
            made[Evidence.FULL] = lambda: evidence.full(self.files, cache)
        return {kind: _traced(kind, make) for kind, make in made.items()}


def _traced(kind: Evidence, make: Callable[[], str | None]) -> Callable[[], str | None]:
    def traced() -> str | None:
        with tracing.span("evidence", kind=str(kind)):
            return make()

    return traced


@dataclass(frozen=True)
class Wanted:
    """The content that a worker needs, as far as the worker knows."""

    content: LazyContent
    files: Files | None
    """None unless all of them are on this host."""
    absent: str = ""
    """Why there are no files."""
    demanded: Mapping[Evidence, str] = field(default_factory=dict)
    """The value of CONTENT."""

    def check_demanded(self, cache: HostCache | None) -> None:
        """Call before storage is read. Raises `ConfigError` when CONTENT differs from what these
        files hold, and `IdentityError` when they cannot be read."""
        if self.files is None:
            return
        for kind, value in self.demanded.items():
            maker = self.files.makers(cache, full=True).get(kind)
            have = maker() if maker is not None else None
            if have is not None and have != value:
                raise ConfigError(
                    "CONTENT",
                    f"{kind}:{value}",
                    f"no peer holds it, and the files of this checkpoint are {kind}:{have}",
                )


def want(
    files: Files | None,
    absent: str,
    commit: str | None,
    demanded: Mapping[Evidence, str],
    cache: HostCache | None,
    *,
    full: bool,
) -> Wanted | None:
    """Combine what is known; None when nothing is.

    If an operator demands a content, only that counts: the files at hand may be others.
    """
    if demanded:
        return Wanted(LazyContent({}, demanded), files, absent, demanded)
    known = {Evidence.COMMIT: commit} if commit is not None else {}
    makers = files.makers(cache, full=full) if files is not None else {}
    if not known and not makers:
        return None
    return Wanted(LazyContent(makers, known), files, absent)


def held(
    read: Files, before: Wanted | None, cache: HostCache | None, *, full: bool
) -> tuple[LazyContent, str | None]:
    """Evidence for the files that storage was just read from, or why there is none.

    Earlier evidence counts when it was made from the very same files.
    """
    changed = evidence.changed_since(read.stamps)
    if changed is not None:
        return LazyContent({}), f"{changed} while it was being loaded"
    same = before is not None and before.files is not None and before.files.stamps == read.stamps
    if before is not None and before.files is not None and not same:
        moved = evidence.changed_since(before.files.stamps)
        if moved is not None:
            return LazyContent({}), f"{moved} since this worker asked its peers"
    known = before.content.known if before is not None and same and not before.demanded else {}
    known = {kind: text for kind, text in known.items() if kind is not Evidence.COMMIT}
    return LazyContent(read.makers(cache, full=full), known), None
