"""Evidence of the Hub's cache: names of blobs, checked against their bytes, and commits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.loader import trees
from tests.loader.checkpoint.evidence_files import MODEL, Counted, changed, hub, one
from tests.loader.trees import snapshot, sparse, write

from netloader.checkpoint.evidence import Reading, blobs, cache_commit, wrong_blob
from netloader.errors import IdentityError


def test_snapshots_of_the_same_blobs_are_the_same_whatever_the_commit(tmp_path: Path) -> None:
    mine, theirs = hub(tmp_path / "1"), hub(tmp_path / "2", commit="decaf")
    assert blobs(mine) == blobs(theirs) is not None
    assert blobs(hub(tmp_path / "3", changed(MODEL, "a", 0))) not in (None, blobs(mine))


def test_blobs_do_not_depend_on_the_names_of_files(tmp_path: Path) -> None:
    files = [write(tmp_path / name, {name: MODEL["a"]}) for name in ("a", "b")]
    mine = snapshot(tmp_path / "1", {"1.safetensors": files[0], "2.safetensors": files[1]})
    theirs = snapshot(tmp_path / "2", {"x/1.safetensors": files[1], "x/2.safetensors": files[0]})
    assert blobs(mine) == blobs(theirs) is not None


def test_order_of_blobs_counts_where_a_tensor_is_in_two_of_them(tmp_path: Path) -> None:
    files = [write(tmp_path / name, {"a": name.encode()}) for name in ("1", "2")]
    mine = snapshot(tmp_path / "x", {"1.safetensors": files[0], "2.safetensors": files[1]})
    assert blobs(mine) != blobs(mine[::-1])


def test_equal_names_of_blobs_with_other_bytes_are_others(tmp_path: Path) -> None:
    name = "a" * 64
    mine = blobs(hub(tmp_path / "1", blob=name))
    tuned = MODEL | {"a": bytes(byte ^ 1 for byte in MODEL["a"])}
    assert blobs(hub(tmp_path / "2", tuned, blob=name)) != mine is not None
    longer = MODEL | {"a": MODEL["a"] + b"x"}
    assert blobs(hub(tmp_path / "3", longer, blob=name)) != mine


def test_files_that_no_hash_names_have_no_blobs(tmp_path: Path) -> None:
    plain = one(tmp_path / "plain")
    assert blobs(plain) is None
    assert blobs(hub(tmp_path / "etag", blob="abc-5")) is None
    assert blobs([*hub(tmp_path / "hub"), *plain]) is None
    assert blobs([]) is None


def test_half_a_blob_is_an_identity_error(tmp_path: Path) -> None:
    files = hub(tmp_path)
    os.truncate(files[0].path, 50_000)
    with pytest.raises(IdentityError, match=r"model\.safetensors"):
        blobs(files)


def test_of_a_blob_its_header_and_16_blocks_are_read(tmp_path: Path) -> None:
    path = sparse(tmp_path / "large", [str(at) for at in range(100)], 1 << 20)
    files = snapshot(tmp_path, {"model.safetensors": path}, blob="b" * 40)
    counted = Counted()
    assert blobs(files, reading=Reading(pread=counted)) is not None
    assert len(counted.reads) == 2 + 16
    assert sum(counted.reads) < 16 * 1024 + 20_000


@pytest.mark.parametrize("name", [lambda data: hashlib.sha256(data).hexdigest(), trees.git_hash])
def test_blob_whose_name_is_its_hash_is_right(tmp_path: Path, name: Callable[[bytes], str]) -> None:
    data = write(tmp_path / "file", MODEL).read_bytes()
    files = hub(tmp_path, blob=name(data))
    assert wrong_blob(files) is None
    with files[0].path.open("r+b") as file:
        file.seek(60_000)
        file.write(b"!")
    assert "model.safetensors" in (wrong_blob(files) or "")


def test_blob_that_no_hash_names_is_wrong(tmp_path: Path) -> None:
    assert "abc-5" not in (wrong_blob(hub(tmp_path / "1")) or "")
    assert "model.safetensors" in (wrong_blob(hub(tmp_path / "2", blob="abc-5")) or "")
    assert "model.safetensors" in (wrong_blob(one(tmp_path / "3")) or "")


def test_every_byte_of_every_blob_is_read_once_in_blocks(tmp_path: Path) -> None:
    path = sparse(tmp_path / "large", ["a"], 9 << 20)
    other = write(tmp_path / "small", MODEL)
    files = snapshot(tmp_path, {"1.safetensors": path, "2.safetensors": other})
    blocks: list[int] = []
    assert wrong_blob(files, on_read=blocks.append) is None
    assert sum(blocks) == path.stat().st_size + other.stat().st_size
    assert max(blocks) <= 4 << 20


def test_who_paces_the_check_can_end_it(tmp_path: Path) -> None:
    class Stop(OSError):
        """Not storage's fault."""

    def stop(read: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        wrong_blob(hub(tmp_path), on_read=stop)


def test_ordinary_folder_has_no_commit(tmp_path: Path) -> None:
    assert cache_commit(tmp_path / "models--org--name" / "snapshots" / "c") == "org/name@c"
    assert cache_commit(tmp_path / "models--org--name" / "elsewhere" / "c") is None
    assert cache_commit(tmp_path / "org" / "snapshots" / "c") is None
