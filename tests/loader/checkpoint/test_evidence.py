from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.loader.checkpoint.evidence_files import BOTH, MODEL, Counted, Of, changed, hub, one
from tests.loader.trees import Shard, Tensor, Tensors, of, sparse, write

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import Reading, WeightFile, blobs, full, local_evidence, sample
from netloader.identity.identity import Evidence

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
