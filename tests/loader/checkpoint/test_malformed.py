"""Files that are not what they should be are an `IdentityError`, or no evidence."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
from tests.loader.checkpoint.evidence_files import BOTH, Counted, Of, one
from tests.loader.trees import Shard, Tensor, of

from netloader.checkpoint.evidence import Reading, sample
from netloader.errors import IdentityError


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def entry(**changes: object) -> bytes:
    tensor = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]} | changes
    return header(json.dumps({"a": tensor})) + b"ab"


MALFORMED = [
    b"",
    b"short",
    struct.pack("<Q", 1 << 60),
    struct.pack("<Q", 100) + b"{}",
    header("no json"),
    header("[]"),
    header('{"a": 5}'),
    header('{"a": {}}'),
    header("{}") + b"x",
    entry(data_offsets=[0]),
    entry(data_offsets=["0", "2"]),
    entry(data_offsets=[0.0, 2.0]),
    entry(data_offsets=[0, 100], shape=[100]),
    entry(data_offsets=[-2, 0]),
    entry(data_offsets=[1, 2], shape=[1]),
    entry(data_offsets=[0, 1], shape=[1]),
    entry(data_offsets=[2, 0]),
    entry(shape=[3]),
    entry(shape=[-1, -2]),
    entry(shape=[2.0]),
    entry(shape="2"),
    entry(shape=2),
    entry(dtype="F32"),
    entry(dtype=5),
    header(
        '{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},'
        ' "b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}'
    )
    + b"abc",
]


@BOTH
@pytest.mark.parametrize("data", MALFORMED)
def test_malformed_file_is_an_identity_error_naming_it(
    tmp_path: Path, evidence: Of, data: bytes
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(IdentityError, match=r"model\.safetensors"):
        evidence(of([path]))


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_malformed_here_safetensors_does_not_load(data: bytes) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(data)


@BOTH
@pytest.mark.parametrize(
    "tensor", [Tensor(bytes(8), "F4", (4, 4)), Tensor(bytes(3), "F6_E2M3", (4,)), Tensor(bytes(8))]
)
def test_types_of_less_than_a_byte_are_known(tmp_path: Path, evidence: Of, tensor: Tensor) -> None:
    path = Shard({"a": tensor}).write(tmp_path / "model.safetensors")
    safetensors.deserialize(path.read_bytes())
    assert evidence(of([path]))


@BOTH
def test_type_of_a_later_format_has_the_size_its_offsets_say(tmp_path: Path, evidence: Of) -> None:
    found = {
        evidence(
            of(
                [
                    Shard({"a": Tensor(bytes(size), "F7", (2,))}).write(
                        tmp_path / f"{size}.safetensors"
                    )
                ]
            )
        )
        for size in (1, 2, 3)
    }
    assert len(found) == 3


def test_header_beyond_the_formats_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)
    counted = Counted()
    with pytest.raises(IdentityError, match="100000001"):
        sample(of([path]), reading=Reading(pread=counted))
    assert sum(counted.reads) == 8


@BOTH
def test_missing_file_folder_pipe_and_nothing_at_all_are_identity_errors(
    tmp_path: Path, evidence: Of
) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    for name in ("missing", "folder", "pipe", "loop"):
        with pytest.raises(IdentityError, match=name):
            evidence(of([tmp_path / f"{name}.safetensors"]))
    with pytest.raises(IdentityError):
        evidence([])


@BOTH
def test_file_that_changes_while_it_is_read_gives_no_evidence(
    tmp_path: Path, evidence: Callable[..., str]
) -> None:
    files = one(tmp_path)

    def touching(file: int, size: int, offset: int) -> bytes:
        os.utime(files[0].path, ns=(1, 1))
        return os.pread(file, size, offset)

    with pytest.raises(IdentityError, match="changed"):
        evidence(files, reading=Reading(pread=touching))


@BOTH
def test_file_that_ends_while_it_is_read_is_an_identity_error(
    tmp_path: Path, evidence: Callable[..., str]
) -> None:
    reading = Reading(pread=lambda file, size, offset: os.pread(file, size, offset)[: 9 - offset])
    with pytest.raises(IdentityError, match=r"model\.safetensors"):
        evidence(one(tmp_path), reading=reading)


def test_storage_that_fails_is_an_identity_error(tmp_path: Path) -> None:
    def broken(file: int, size: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(IdentityError, match=r"model\.safetensors.*Input/output"):
        sample(one(tmp_path), reading=Reading(pread=broken))
