"""A commit is claimed only where the files hold what the cache names them by."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from tests.loader.worker.loading.whole_load import one_file

from netloader.identity.identity import Evidence, LazyContent
from netloader.worker.loading.claim import checked_commit
from netloader.worker.loading.provenance import Provenance

COMMIT = "org/toy@c0ffee"
DATA = b"weights" * 1000


def provenance(path: Path, **changes: object) -> Provenance:
    values: dict[str, object] = {
        "content": LazyContent({}, {Evidence.BLOBS: "b" * 32}),
        "attributes": {},
        "computed": {},
        "files": one_file(path),
        "commit": COMMIT,
    }
    return Provenance(**values | changes)  # type: ignore[arg-type]


def blob(folder: Path, data: bytes = DATA) -> Path:
    """A file that is named by the hash of `DATA`, as in the Hub's cache."""
    path = folder / "blobs" / hashlib.sha256(DATA).hexdigest()
    path.parent.mkdir()
    path.write_bytes(data)
    return path


def test_files_that_hold_what_they_are_named_by_prove_the_commit(tmp_path: Path) -> None:
    assert checked_commit(provenance(blob(tmp_path)), None, threading.Event()) == COMMIT


def test_other_bytes_prove_nothing(tmp_path: Path) -> None:
    path = blob(tmp_path, DATA.replace(b"w", b"x", 1))
    assert checked_commit(provenance(path), None, threading.Event()) is None


def test_files_that_changed_after_they_were_read_prove_nothing(tmp_path: Path) -> None:
    path = blob(tmp_path, b"something longer than" + DATA)
    before = provenance(path)
    path.write_bytes(DATA)
    assert checked_commit(before, None, threading.Event()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"files": None},
        {"commit": None},
        {"content": LazyContent({}, {Evidence.SAMPLE: "a" * 32})},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_weights_that_no_hash_names_claim_nothing(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    path = blob(tmp_path)
    assert checked_commit(provenance(path, **changes), None, threading.Event()) is None


def test_a_process_that_ends_does_not_wait_for_it(tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    assert checked_commit(provenance(blob(tmp_path)), None, stopping) is None
