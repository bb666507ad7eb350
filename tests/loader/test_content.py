from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from netloader.content import cache_commit, commit_evidence, local_evidence, weight_files
from netloader.errors import IdentityError
from netloader.identity import Evidence

Tensors = dict[str, bytes]
MODEL: Tensors = {"a": bytes(range(256)) * 400, "b": b"small", "empty": b""}


def write(path: Path, tensors: Tensors, metadata: str = "") -> Path:
    """A safetensors file, by hand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table: dict[str, object] = {"__metadata__": {"note": metadata}} if metadata else {}
    at = 0
    for name, data in tensors.items():
        table[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    header = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(tensors.values()))
    return path


def sample(folder: Path) -> str:
    return local_evidence(str(folder))[Evidence.SAMPLE]


def test_same_files_in_another_folder_are_the_same(tmp_path: Path) -> None:
    write(tmp_path / "one" / "model.safetensors", MODEL)
    write(tmp_path / "two" / "model.safetensors", MODEL)
    assert local_evidence(str(tmp_path / "one")) == local_evidence(str(tmp_path / "two"))


@pytest.mark.parametrize("name", ["a", "b"])
def test_fine_tune_with_the_same_header_is_another(tmp_path: Path, name: str) -> None:
    tuned = MODEL | {name: bytes(byte ^ 1 for byte in MODEL[name])}
    write(tmp_path / "one" / "model.safetensors", MODEL)
    write(tmp_path / "two" / "model.safetensors", tuned)
    assert sample(tmp_path / "one") != sample(tmp_path / "two")


def test_small_tensors_are_read_whole(tmp_path: Path) -> None:
    for at in range(5):
        data = bytearray(MODEL["b"])
        data[at] ^= 1
        write(tmp_path / str(at) / "model.safetensors", MODEL | {"b": bytes(data)})
    assert len({sample(tmp_path / str(at)) for at in range(5)}) == 5


def test_first_and_last_bytes_of_a_large_tensor_are_read(tmp_path: Path) -> None:
    write(tmp_path / "model" / "model.safetensors", MODEL)
    for at in (0, -1):
        data = bytearray(MODEL["a"])
        data[at] ^= 1
        write(tmp_path / "changed" / "model.safetensors", MODEL | {"a": bytes(data)})
        assert sample(tmp_path / "changed") != sample(tmp_path / "model")


def test_one_changed_byte_anywhere_is_found_by_a_full_digest(tmp_path: Path) -> None:
    data = bytearray(MODEL["a"])
    data[54_321] ^= 1
    write(tmp_path / "one" / "model.safetensors", MODEL)
    write(tmp_path / "two" / "model.safetensors", MODEL | {"a": bytes(data)})
    one, two = (local_evidence(str(tmp_path / name), full=True) for name in ("one", "two"))
    assert one[Evidence.FULL] != two[Evidence.FULL]


def test_file_names_and_metadata_count(tmp_path: Path) -> None:
    write(tmp_path / "one" / "model.safetensors", MODEL)
    write(tmp_path / "two" / "other.safetensors", MODEL)
    write(tmp_path / "three" / "model.safetensors", MODEL, metadata="x")
    assert len({sample(tmp_path / name) for name in ("one", "two", "three")}) == 3


def test_files_the_index_does_not_name_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "model-1.safetensors", MODEL)
    before = sample(tmp_path)
    write(tmp_path / "consolidated.safetensors", MODEL)
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(tmp_path)] == ["model-1.safetensors"]
    assert sample(tmp_path) == before


def test_half_a_download_is_no_evidence(tmp_path: Path) -> None:
    write(tmp_path / "model-1.safetensors", MODEL)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert local_evidence(str(tmp_path)) == {}


def test_no_folder_or_no_weights_is_no_evidence(tmp_path: Path) -> None:
    assert local_evidence("org/name") == {}
    assert local_evidence(str(tmp_path)) == {}


def test_format_without_a_tensor_table_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"pickle")
    assert set(local_evidence(str(tmp_path))) == {Evidence.FULL}


def test_safetensors_go_before_other_formats(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"pickle")
    write(tmp_path / "model.safetensors", MODEL)
    assert set(local_evidence(str(tmp_path))) == {Evidence.SAMPLE}


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 60),
        struct.pack("<Q", 100) + b"{}",
        header("no json"),
        header("[]"),
        header('{"a": 5}'),
        header('{"a": {}}'),
        header('{"a": {"data_offsets": [0]}}'),
        header('{"a": {"data_offsets": ["0", "9"]}}'),
        header('{"a": {"data_offsets": [0, 100]}}'),
        header('{"a": {"data_offsets": [-99999, 100]}}'),
    ],
)
def test_malformed_file_is_an_identity_error_naming_the_folder(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(IdentityError, match=tmp_path.name):
        local_evidence(str(tmp_path))


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}'])
def test_malformed_index_is_an_identity_error(tmp_path: Path, index: str) -> None:
    write(tmp_path / "model.safetensors", MODEL)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(IdentityError, match=tmp_path.name):
        local_evidence(str(tmp_path))


def cached(root: Path, blob: str, tensors: Tensors, commit: str = "c0ffee") -> Path:
    """A snapshot as the Hugging Face cache lays it out."""
    repo = root / "models--org--name"
    path = write(repo / "blobs" / blob, tensors)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    (snapshot / "model.safetensors").symlink_to(path)
    return snapshot


def test_cache_knows_blobs_and_commit(tmp_path: Path) -> None:
    found = local_evidence(str(cached(tmp_path, "abc", MODEL)))
    assert set(found) == {Evidence.BLOBS, Evidence.COMMIT, Evidence.SAMPLE}
    assert found[Evidence.COMMIT] == "org/name@c0ffee"


def test_blobs_tell_contents_apart_by_their_names(tmp_path: Path) -> None:
    one = local_evidence(str(cached(tmp_path / "1", "abc", MODEL)))
    two = local_evidence(str(cached(tmp_path / "2", "def", MODEL)))
    assert one[Evidence.BLOBS] != two[Evidence.BLOBS]
    assert one[Evidence.SAMPLE] == two[Evidence.SAMPLE]


def test_replica_with_only_the_repository_id_knows_the_same_commit(tmp_path: Path) -> None:
    found = local_evidence(str(cached(tmp_path, "abc", MODEL)))
    assert commit_evidence("org/name", "c0ffee")[Evidence.COMMIT] == found[Evidence.COMMIT]


def test_unresolved_commit_is_no_evidence() -> None:
    assert commit_evidence("org/name", None) == {}
    assert commit_evidence("org/name", "") == {}


def test_ordinary_folder_has_no_commit(tmp_path: Path) -> None:
    assert cache_commit(tmp_path / "models--org--name" / "elsewhere" / "c") is None
    assert cache_commit(tmp_path / "org" / "snapshots" / "c") is None
