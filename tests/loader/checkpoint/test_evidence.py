from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.loader import trees
from tests.loader.trees import Shard, Tensor, Tensors, of, snapshot, sparse, write

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import (
    Reading,
    WeightFile,
    blobs,
    cache_commit,
    changed_since,
    full,
    local_evidence,
    sample,
    stamps,
    wrong_blob,
)
from netloader.checkpoint.hostcache import HostCache
from netloader.errors import IdentityError
from netloader.identity.identity import Evidence

MODEL: Tensors = {"a": bytes(range(256)) * 400, "b": b"small", "empty": b""}
BOTH = pytest.mark.parametrize("evidence", [sample, full])
Of = Callable[[Sequence[WeightFile]], str]


def one(path: Path, tensors: Tensors = MODEL, **metadata: str) -> list[WeightFile]:
    return of([write(path / "model.safetensors", tensors, **metadata)])


def changed(tensors: Tensors, name: str, at: int) -> Tensors:
    data = bytearray(tensors[name])
    data[at] ^= 1
    return {**tensors, name: bytes(data)}


# What counts, and what does not.


@BOTH
def test_same_tensors_in_another_folder_under_another_name_are_the_same(
    tmp_path: Path, evidence: Of
) -> None:
    other = of([write(tmp_path / "two" / "other.safetensors", MODEL)])
    assert evidence(one(tmp_path / "one")) == evidence(other)


@BOTH
def test_metadata_padding_and_order_within_a_file_do_not_count(
    tmp_path: Path, evidence: Of
) -> None:
    tensors = {name: Tensor(MODEL[name]) for name in reversed(list(MODEL))}
    other = Shard(tensors, {"format": "pt"}, padding=77).write(tmp_path / "two.safetensors")
    assert evidence(one(tmp_path)) == evidence(of([other]))


@BOTH
def test_how_tensors_are_cut_into_files_does_not_count(tmp_path: Path, evidence: Of) -> None:
    shards = [
        write(tmp_path / "sub" / f"{name}.safetensors", {name: MODEL[name]}) for name in MODEL
    ]
    assert evidence(one(tmp_path)) == evidence(of(shards)) == evidence(of(shards[::-1]))


@BOTH
@pytest.mark.parametrize(
    "tensors",
    [
        {**MODEL, "c": b""},
        {name: MODEL[name] for name in ("a", "b")},
        {"a": MODEL["a"], "c": MODEL["b"], "empty": b""},
        {"a": MODEL["b"], "b": MODEL["a"], "empty": b""},
    ],
    ids=["more", "less", "renamed", "swapped"],
)
def test_other_tensors_are_others(tmp_path: Path, evidence: Of, tensors: Tensors) -> None:
    assert evidence(one(tmp_path / "one")) != evidence(one(tmp_path / "two", tensors))


@BOTH
@pytest.mark.parametrize("other", [Tensor(bytes(16), "I8"), Tensor(bytes(16), "U8", (4, 4))])
def test_another_type_or_shape_is_another_tensor(
    tmp_path: Path, evidence: Of, other: Tensor
) -> None:
    mine = Shard({"a": Tensor(bytes(16))}).write(tmp_path / "1.safetensors")
    theirs = Shard({"a": other}).write(tmp_path / "2.safetensors")
    assert evidence(of([mine])) != evidence(of([theirs]))


@BOTH
def test_the_later_of_two_tensors_with_one_name_stays_so_order_counts(
    tmp_path: Path, evidence: Of
) -> None:
    files = of(
        [
            write(tmp_path / "1.safetensors", {"a": b"one", "b": b"b"}),
            write(tmp_path / "2.safetensors", {"a": b"two"}),
        ]
    )
    assert evidence(files) != evidence(files[::-1])
    assert evidence(files) != evidence(files[:1])


@BOTH
def test_the_prefix_is_part_of_the_name(tmp_path: Path, evidence: Of) -> None:
    plain = write(tmp_path / "1.safetensors", {"a.weight": b"x"})
    bare = write(tmp_path / "2.safetensors", {"weight": b"x"})
    assert evidence(of([plain])) == evidence(of([bare], "a."))
    assert evidence(of([bare])) != evidence(of([bare], "a."))


def test_kinds_of_evidence_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    files = one(tmp_path, {"a": b"small"})
    assert sample(files) != full(files)


NAMES = st.sampled_from(["a", "b", "c", "model.a"])
TENSORS = st.builds(
    Tensor,
    st.sampled_from([b"", b"\0\0", b"\0\1", bytes(4096), bytes(4095) + b"\1"]),
    st.sampled_from(["U8", "I8"]),
)
SHARDS = st.builds(
    Shard,
    st.dictionaries(NAMES, TENSORS, max_size=3),
    st.dictionaries(st.just("format"), st.sampled_from(["pt", "tf"]), max_size=1),
    st.integers(0, 9),
)
TREES = st.lists(st.tuples(SHARDS, st.sampled_from(["", "model."])), min_size=1, max_size=3)
Tree = list[tuple[Shard, str]]


def loaded(tree: Tree) -> dict[str, list[Tensor]]:
    """What a loader is given under each name, in order."""
    found: dict[str, list[Tensor]] = {}
    for shard, prefix in tree:
        for name, tensor in shard.tensors.items():
            found.setdefault(prefix + name, []).append(tensor)
    return found


def laid_out(tree: Tree, root: Path, draw: st.DataObject) -> list[WeightFile]:
    """Files of any names, in sub-folders, some behind links, whole or cut up."""
    files = []
    for at, (shard, prefix) in enumerate(tree):
        order = draw.draw(st.permutations(list(shard.tensors)))
        cut = draw.draw(st.integers(0, len(order)))
        for half, names in enumerate((order[:cut], order[cut:])):
            folder = root / draw.draw(st.sampled_from(["", "sub", "sub/deeper"]))
            path = folder / f"{draw.draw(st.integers(0, 99)):02}-{at}-{half}.safetensors"
            replace(shard, tensors={name: shard.tensors[name] for name in names}).write(path)
            if draw.draw(st.booleans()):
                link = root / f"link-{at}-{half}.safetensors"
                link.symlink_to(path)
                path = link
            files.append(WeightFile(path, prefix))
    return files


@BOTH
@settings(max_examples=40)
@given(st.data())
def test_evidence_is_equal_exactly_when_loaders_are_given_equal_tensors(
    evidence: Of, data: st.DataObject
) -> None:
    mine: Tree = data.draw(TREES)
    theirs: Tree = data.draw(st.one_of(st.just(mine), st.just(mine[::-1]), TREES))
    with TemporaryDirectory() as folder:
        found = [
            evidence(laid_out(tree, Path(folder) / str(at), data))
            for at, tree in enumerate((mine, theirs))
        ]
    assert (found[0] == found[1]) == (loaded(mine) == loaded(theirs))


# Which bytes are read.


@pytest.mark.parametrize("name", ["a", "b"])
def test_fine_tune_with_the_same_header_is_another(tmp_path: Path, name: str) -> None:
    tuned = MODEL | {name: bytes(byte ^ 1 for byte in MODEL[name])}
    assert sample(one(tmp_path / "one")) != sample(one(tmp_path / "two", tuned))


def test_small_tensors_are_read_whole(tmp_path: Path) -> None:
    tensors = {**MODEL, "b": bytes(4096)}
    found = {
        sample(one(tmp_path / str(at), changed(tensors, "b", at))) for at in range(0, 4096, 315)
    }
    assert len(found) == 14


def test_first_and_last_bytes_of_a_large_tensor_are_read(tmp_path: Path) -> None:
    before = sample(one(tmp_path / "model"))
    for at in (0, -1):
        assert sample(one(tmp_path / "changed", changed(MODEL, "a", at))) != before


def test_one_changed_byte_anywhere_is_found_by_a_full_digest(tmp_path: Path) -> None:
    before = full(one(tmp_path / "one"))
    assert full(one(tmp_path / "two", changed(MODEL, "a", 54_321))) != before


def test_full_reads_tensors_of_many_pieces(tmp_path: Path) -> None:
    large = {"a": bytes(2_500_000)}
    before = full(one(tmp_path / "one", large))
    for at in (0, 1 << 20, 2_499_999):
        assert full(one(tmp_path / "two", changed(large, "a", at))) != before


class Counted:
    """`os.pread` that says how often and how much."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __call__(self, file: int, size: int, offset: int) -> bytes:
        self.reads.append(size)
        return os.pread(file, size, offset)


def test_small_tensors_are_read_together(tmp_path: Path) -> None:
    """2,000 of 8 KiB in 8 files: 2 MiB a file in reads of 1 MiB, and two for each header."""
    names = [f"layers.{at}.weight" for at in range(250)]
    files = of(
        sparse(tmp_path / f"{part}.safetensors", [f"{part}.{name}" for name in names], 8192)
        for part in range(8)
    )
    counted = Counted()
    sample(files, reading=Reading(pread=counted))
    assert len(counted.reads) <= 8 * (2 + 3)
    assert max(counted.reads) <= 1 << 20


def test_large_tensors_are_read_at_a_few_places_of_a_kibibyte(tmp_path: Path) -> None:
    files = of([sparse(tmp_path / "a.safetensors", [str(at) for at in range(20)], 4 << 20)])
    counted = Counted()
    sample(files, reading=Reading(pread=counted))
    assert len(counted.reads) <= 2 + 20 * 8
    # Two blocks may lie near enough to be read together, and what lies between them.
    assert sum(counted.reads) < 1 << 20


@pytest.mark.parametrize("threads", [1, 2, 64])
@BOTH
def test_evidence_does_not_depend_on_the_number_of_threads(
    tmp_path: Path, evidence: Callable[..., str], threads: int
) -> None:
    files = of(
        write(tmp_path / f"{at}.safetensors", {f"{at}.{name}": MODEL[name] for name in MODEL})
        for at in range(9)
    )
    assert evidence(files, reading=Reading(threads)) == evidence(files)


@BOTH
def test_reads_that_are_answered_in_parts_are_put_together(
    tmp_path: Path, evidence: Callable[..., str]
) -> None:
    files = one(tmp_path)
    meagre = Reading(pread=lambda file, size, offset: os.pread(file, min(size, 1000), offset))
    assert evidence(files, reading=meagre) == evidence(files)


# Files that are not what they should be.


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


# Stamps.


def test_unchanged_files_are_unchanged(tmp_path: Path) -> None:
    assert changed_since(stamps(one(tmp_path))) is None


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(1, 1))


def replaced(path: Path) -> None:
    times = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(path)


def linked_elsewhere(path: Path) -> None:
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize("change", [rewritten, replaced, linked_elsewhere, Path.unlink])
def test_first_changed_file_is_named(tmp_path: Path, change: Callable[[Path], None]) -> None:
    files = of(write(tmp_path / f"{at}.safetensors", MODEL) for at in range(3))
    before = stamps(files)
    change(files[1].path)
    assert str(files[1].path) in (changed_since(before) or "")


@pytest.mark.parametrize("way", ["there/model", "sub/../model", "up/model", "there/twice"])
def test_stamps_know_the_file_behind_every_link(tmp_path: Path, way: str) -> None:
    real = write(tmp_path / "real" / "model", MODEL).resolve()
    (tmp_path / "there").symlink_to("real")
    (tmp_path / "real" / "once").symlink_to("model")
    (tmp_path / "real" / "twice").symlink_to("../there/once")
    (tmp_path / "real" / "deep").mkdir()
    (tmp_path / "sub").symlink_to("real/deep")
    (tmp_path / "up").symlink_to("sub/..")
    (stamp,) = stamps(of([tmp_path / way]))
    assert stamp.real == str(real) == os.path.realpath(tmp_path / way)


# Archives of torch, and other formats.


def saved(path: Path, tensors: Mapping[str, torch.Tensor], *, legacy: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(tensors), path, _use_new_zipfile_serialization=not legacy)
    return path


def weights(seed: int = 1) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(300, 300, generator=random), "b": torch.randn(3, generator=random)}


@BOTH
def test_archive_is_the_same_under_every_name(tmp_path: Path, evidence: Of) -> None:
    mine = saved(tmp_path / "pytorch_model.bin", weights())
    theirs = saved(tmp_path / "an_other_name_of_it.pt", weights())
    other = saved(tmp_path / "other" / "pytorch_model.bin", weights(2))
    assert evidence(of([mine])) == evidence(of([theirs])) != evidence(of([other]))


@BOTH
def test_archive_with_tensors_swapped_in_its_pickle_is_another(
    tmp_path: Path, evidence: Of
) -> None:
    tensors = weights()
    mine = saved(tmp_path / "1.bin", tensors)
    theirs = saved(tmp_path / "2.bin", {"b": tensors["w"], "w": tensors["b"]})
    assert evidence(of([mine])) != evidence(of([theirs]))


@BOTH
@pytest.mark.parametrize("where", ["first", "last"])
def test_bytes_of_an_archives_records_are_read(tmp_path: Path, evidence: Of, where: str) -> None:
    """Its checksums alone are a claim: nobody computes them anew when bytes rot."""
    mine = saved(tmp_path / "1.bin", weights())
    data = weights()["w"].numpy().tobytes()
    bytes_of = bytearray(mine.read_bytes())
    at = bytes_of.index(data) + (0 if where == "first" else len(data) - 1)
    bytes_of[at] ^= 1
    theirs = tmp_path / "2.bin"
    theirs.write_bytes(bytes_of)
    assert evidence(of([mine])) != evidence(of([theirs]))


def test_archive_is_not_read_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.bin", {f"w{at}": torch.zeros(1 << 20) for at in range(4)})
    counted = Counted()
    sample(of([path]), reading=Reading(pread=counted))
    assert 0 < sum(counted.reads) < 200_000 < path.stat().st_size


@BOTH
@pytest.mark.parametrize("at", [0, 70_000, -1])
def test_every_byte_of_a_format_without_a_table_counts(
    tmp_path: Path, evidence: Of, at: int
) -> None:
    mine = saved(tmp_path / "1.bin", weights(), legacy=True)
    data = bytearray(mine.read_bytes())
    data[at] ^= 1
    theirs = tmp_path / "2.bin"
    theirs.write_bytes(data)
    assert evidence(of([mine])) != evidence(of([theirs]))


@BOTH
@pytest.mark.parametrize("cut", [100, 5000, 360_000])
def test_half_an_archive_is_another_file(tmp_path: Path, evidence: Of, cut: int) -> None:
    mine = saved(tmp_path / "1.bin", weights())
    theirs = tmp_path / "2.bin"
    theirs.write_bytes(mine.read_bytes()[:cut])
    assert evidence(of([mine])) != evidence(of([theirs]))


def test_archive_whose_table_leads_astray_is_an_identity_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.bin", weights())
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02", data.index(weights()["w"].numpy().tobytes()))
    while data[central + 46 : central + 46 + 8] != b"1/data/0":
        central = data.index(b"PK\x01\x02", central + 4)
    for field in (20, 24):
        data[central + field : central + field + 4] = struct.pack("<I", 1 << 30)
    path.write_bytes(data)
    with pytest.raises(IdentityError, match=r"1\.bin"):
        sample(of([path]))


@BOTH
def test_archives_and_tensors_side_by_side_all_count(tmp_path: Path, evidence: Of) -> None:
    (plain,) = one(tmp_path)
    heads = [WeightFile(saved(tmp_path / f"{at}.pt", weights(at)), f"head{at}.") for at in (1, 2)]
    files = [plain, *heads]
    assert evidence(files) == evidence(list(files))
    others = (files[:2], [plain, heads[1], heads[0]], [*heads, plain], [plain, heads[0], heads[0]])
    assert len({evidence(files), *map(evidence, others)}) == 5


# The Hub's cache.


def hub(root: Path, tensors: Tensors = MODEL, **given: str) -> list[WeightFile]:
    return snapshot(root, {"model.safetensors": write(root / "file", tensors)}, **given)


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


# Once a host.


def settled(files: Sequence[WeightFile]) -> HostCache:
    """A cache to which the files are old: it lives in next year."""
    later = max(stamp.ctime_ns for stamp in stamps(files)) / 1e9 + 3e7
    return HostCache(files[0].path.parent / "cache", clock=lambda: later)


@BOTH
def test_what_was_read_once_is_not_read_again(tmp_path: Path, evidence: Callable[..., str]) -> None:
    files = one(tmp_path)
    cache, counted = settled(files), Counted()
    first = evidence(files, cache)
    assert evidence(files, cache, reading=Reading(pread=counted)) == first
    assert not counted.reads


@BOTH
def test_changed_file_is_read_again(tmp_path: Path, evidence: Callable[..., str]) -> None:
    files = one(tmp_path)
    cache = settled(files)
    first = evidence(files, cache)
    files = one(tmp_path, changed(MODEL, "a", 0))
    # Both writes may fall into one tick of the file system's clock.
    os.utime(files[0].path, ns=(1, 1))
    assert evidence(files, cache) != first


def test_other_prefix_order_or_kind_is_another_question(tmp_path: Path) -> None:
    files = of(write(tmp_path / f"{at}.safetensors", {"a": b"%d" % at}) for at in range(2))
    cache = settled(files)
    found = [
        sample(files, cache),
        sample(files[::-1], cache),
        sample([replace(file, prefix="x") for file in files], cache),
        full(files, cache),
    ]
    assert len(set(found)) == 4
    assert found[0] == sample(files, cache)


def test_checked_blob_is_not_read_again(tmp_path: Path) -> None:
    files = hub(tmp_path)
    cache = settled(files)
    blocks: list[int] = []
    assert wrong_blob(files, cache, on_read=blocks.append) is None
    before = len(blocks)
    assert wrong_blob(files, cache, on_read=blocks.append) is None
    assert len(blocks) == before > 0


# A quick look at a folder.


def test_folder_without_weights_says_nothing(tmp_path: Path) -> None:
    assert local_evidence("org/name") == {}
    assert local_evidence(str(tmp_path)) == {}


def test_safetensors_go_before_other_formats(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"pickle")
    binary = local_evidence(str(tmp_path))
    files = one(tmp_path)
    assert local_evidence(str(tmp_path)) == {Evidence.SAMPLE: sample(files)} != binary
    assert local_evidence(str(tmp_path), full=True)[Evidence.FULL] == evidence.full(files)


def test_folder_of_the_hub_is_not_sampled(tmp_path: Path) -> None:
    files = hub(tmp_path)
    assert local_evidence(str(files[0].path.parent)) == {
        Evidence.BLOBS: blobs(files),
        Evidence.COMMIT: "org/name@c0ffee",
    }
