"""Which files hold the weights is asked from vLLM; it is right when vLLM then reads these files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e import reading
from tests.e2e.asking import INDEX, absent, agrees, found
from tests.e2e.reading import Answer, Question
from tests.e2e.selector import Selector
from tests.loader.trees import Shard, Tensor, write

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(360)]
CONSOLIDATED_INDEX = "consolidated.safetensors.index.json"


TENSORS = st.builds(
    Tensor, st.sampled_from([b"", b"\0\1", b"\0\2", b"\0\1\2\3"]), st.sampled_from(["U8", "I8"])
)


SHARD = st.builds(
    Shard,
    st.dictionaries(st.sampled_from(["a", "b", "c"]), TENSORS, min_size=1, max_size=2),
    st.dictionaries(st.just("format"), st.sampled_from(["pt", "mlx"]), max_size=1),
)


TORCH = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 2), min_size=1, max_size=2)


@dataclass(frozen=True)
class Tree:
    """A folder with a checkpoint in it, and what else lies in such folders."""

    shards: tuple[Shard, ...]
    names: tuple[str, ...]
    """Of the shards. Sorted as text, and sorted by the numbers in them, they come in other
    orders."""
    index: tuple[int, ...] | None
    """Which of the shards it names. None: there is no index."""
    index_names_missing: bool
    consolidated: Shard | None
    consolidated_index: bool
    junk: Shard | None
    below: tuple[str, Shard] | None
    torch_files: Mapping[str, Mapping[str, int]]
    leftovers: frozenset[str]
    linked: str
    """The links that lead to the files."""
    order: int
    """In which the files are made: a folder may list them in it, or the other way round."""

    def lay_out(self, root: Path) -> Path:
        """Make it below `root`, and say by which name it is to be loaded."""
        folder = root / ("elsewhere" if self.linked == "folder" else "model")
        folder.mkdir(parents=True)
        made: dict[str, object] = {}
        made |= dict(zip(self.names, self.shards, strict=False))
        if self.index is not None:
            named = [self.names[at] for at in self.index if at < len(self.shards)]
            if self.index_names_missing:
                named.append("model-of-another.safetensors")
            made[INDEX] = {"weight_map": {str(at): name for at, name in enumerate(named)}}
        if self.consolidated is not None:
            made["consolidated.00.safetensors"] = self.consolidated
        if self.consolidated_index:
            weight_map = {"x": "consolidated.00.safetensors"}
            made[CONSOLIDATED_INDEX] = {"weight_map": weight_map}
        if self.junk is not None:
            made["junk.safetensors"] = self.junk
        if self.below is not None:
            made[self.below[0]] = self.below[1]
        made |= self.torch_files
        made |= dict.fromkeys(self.leftovers, b"not weights")
        for name in random.Random(self.order).sample(sorted(made), len(made)):
            path = folder / name
            if self.linked == "files":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(root / "store" / name)
                path = root / "store" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            match made[name]:
                case Shard() as shard:
                    shard.write(path)
                case bytes(data):
                    path.write_bytes(data)
                case {"weight_map": _} as index:
                    path.write_text(json.dumps(index))
                case dict(values):
                    torch.save({key: torch.full((2,), at) for key, at in values.items()}, path)
        if self.linked == "folder":
            (root / "model").symlink_to(folder)
        return root / "model"


def trees() -> st.SearchStrategy[Tree]:
    return st.builds(Tree, **PARTS)


def related(tree: Tree) -> st.SearchStrategy[Tree]:
    """The same, or with another part here or there."""
    return st.sets(st.sampled_from(sorted(PARTS)), max_size=2).flatmap(
        lambda names: st.builds(
            lambda **parts: replace(tree, **parts), **{n: PARTS[n] for n in names}
        )
    )


NAMES = st.sampled_from(
    [
        ("model-2.safetensors", "model-10.safetensors", "model-3.safetensors"),
        ("model-10.safetensors", "model-2.safetensors", "model-1.safetensors"),
        ("one.safetensors", "two.safetensors", "three.safetensors"),
    ]
)


PARTS: Mapping[str, st.SearchStrategy[object]] = {
    "shards": st.lists(SHARD, max_size=3).map(tuple),
    "names": NAMES,
    "index": st.none() | st.sets(st.integers(0, 2)).map(lambda found: tuple(sorted(found))),
    "index_names_missing": st.sampled_from([False] * 4 + [True]),
    "consolidated": st.none() | st.none() | SHARD,
    "consolidated_index": st.sampled_from([False] * 4 + [True]),
    "junk": st.none() | SHARD,
    "below": st.none()
    | st.tuples(
        st.sampled_from(
            ["sub/model.safetensors", "sub/model.safetensors", "original/consolidated.safetensors"]
        ),
        SHARD,
    ),
    "torch_files": st.dictionaries(
        st.sampled_from(["pytorch_model.bin", "model.pt", "model-2.pt", "pytorch_model-2.bin"]),
        TORCH,
        max_size=2,
    ),
    "leftovers": st.frozensets(
        st.sampled_from(["training_args.bin", "optimizer.bin", "scheduler.pt", "README.md"])
    ),
    "linked": st.sampled_from(["", "", "files", "folder"]),
    "order": st.integers(0, 3),
}


PAIRS = trees().flatmap(lambda tree: st.tuples(st.just(tree), related(tree) | trees()))
FORMATS = st.sampled_from(["auto", "auto", "hf", "safetensors", "mistral", "pt"])


@settings(
    deadline=None,
    max_examples=100,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(pair=PAIRS, formats=st.tuples(FORMATS, FORMATS) | FORMATS.map(lambda one: (one, one)))
def test_evidence_is_equal_exactly_when_vllm_reads_equal_tensors(
    vllm: Selector, fresh: Fresh, pair: tuple[Tree, Tree], formats: tuple[str, str]
) -> None:
    one, other = (
        vllm(reading.look, Question(str(tree.lay_out(fresh())), load_format))
        for tree, load_format in zip(pair, formats, strict=True)
    )
    for answer in (one, other):
        agrees(answer)
    if one.tensors is None or other.tensors is None:
        return
    if one.full == other.full:
        assert one.tensors == other.tensors
        assert one.sample == other.sample
    else:
        # Of torch's files the archive counts as it is, and their order: tensors in them are not
        # looked at one by one. There, evidence may differ for what is equal.
        assert one.tensors != other.tensors or torch_files(one) or torch_files(other)
    if one.sample == other.sample:
        # Tensors as small as these are read whole.
        assert one.full == other.full


def torch_files(answer: Answer) -> bool:
    return any(not name.endswith(".safetensors") for name in answer.names)


@dataclass
class Fresh:
    """Folders that vLLM has never seen: it remembers what it has listed."""

    root: Path
    numbers: Iterator[int] = field(default_factory=count)

    def __call__(self) -> Path:
        return self.root / str(next(self.numbers))


@pytest.fixture
def fresh(tmp_path: Path) -> Fresh:
    return Fresh(tmp_path)


def test_the_later_of_two_tensors_is_that_of_the_higher_number(
    vllm: Selector, tmp_path: Path
) -> None:
    """`model-10` comes after `model-2` as vLLM sorts, whatever order the folder lists them in."""
    answers = []
    for at, (first, second) in enumerate([("2", "10"), ("10", "2"), ("2", "10")]):
        folder = tmp_path / str(at)
        # The last is made in the other order than the first.
        shards = [(first, b"one"), (second, b"two")]
        for name, data in shards[:: -1 if at == 2 else 1]:
            write(folder / f"model-{name}.safetensors", {"a": data})
        answers.append(found(vllm, Question(str(folder))))

    assert answers[0].names == ["model-2.safetensors", "model-10.safetensors"]
    assert answers[0].full == answers[2].full
    assert answers[0].full != answers[1].full


def test_consolidated_files_are_read_instead_of_the_shards(vllm: Selector, tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"a": b"shard"})
    write(tmp_path / "consolidated.safetensors", {"a": b"whole"})

    assert found(vllm, Question(str(tmp_path))).names == ["consolidated.safetensors"]
    assert len(found(vllm, Question(str(tmp_path), "hf")).names) == 2


def test_no_tensor_is_read_when_vllm_is_asked(vllm: Selector, tmp_path: Path) -> None:
    """What is no checkpoint at all can be asked about, and then cannot be loaded."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    answer = vllm(reading.look, Question(str(tmp_path)))

    assert answer.refused == "IdentityError"
    assert "malformed" in answer.why
    assert answer.tensors is None


def test_a_link_to_nothing_is_not_at_hand(vllm: Selector, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")

    assert "model.safetensors is missing" in absent(vllm, Question(str(tmp_path)))


def test_what_was_converted_for_npcache_is_not_what_the_files_hold(
    vllm: Selector, tmp_path: Path
) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    answer = vllm(reading.look, Question(str(tmp_path), "npcache"))

    assert answer.refused == "IdentityError"
    assert "np_cache" in answer.why
    assert answer.tensors is not None
