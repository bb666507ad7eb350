"""Which files hold the weights is asked from vLLM; it is right when vLLM then reads these files."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e import hub, selector
from tests.e2e.selector import Answer, Question, Secondary, Selector
from tests.loader.trees import Shard, Tensor, write

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(360)]

INDEX = "model.safetensors.index.json"
CONSOLIDATED_INDEX = "consolidated.safetensors.index.json"


@pytest.fixture(scope="module")
def vllm(home: Path) -> Iterator[Selector]:
    with Selector(home) as found:
        yield found


# Over trees of files.

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
        vllm(selector.look, Question(str(tree.lay_out(fresh())), load_format))
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


def agrees(answer: Answer) -> None:
    """What was said beforehand is what came."""
    assert answer.refused in ("", "NotAtHand"), answer.why
    assert (answer.refused == "") == (answer.tensors is not None), (answer.why, answer.error)
    assert answer.as_asked or answer.refused
    assert answer.beyond == ()


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


def found(vllm: Selector, question: Question) -> Answer:
    """The answer to a question that has one."""
    answer = vllm(selector.look, question)
    agrees(answer)
    assert not answer.refused, answer.why
    return answer


def absent(vllm: Selector, question: Question) -> str:
    """Why the weights are not at hand."""
    answer = vllm(selector.look, question)
    agrees(answer)
    assert answer.refused == "NotAtHand"
    return answer.why


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
    answer = vllm(selector.look, Question(str(tmp_path)))

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
    answer = vllm(selector.look, Question(str(tmp_path), "npcache"))

    assert answer.refused == "IdentityError"
    assert "np_cache" in answer.why
    assert answer.tensors is not None


# What a model class asks for.


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write(folder / "model.safetensors", {"a": b"first"})
    return folder


def heads(folder: Path, value: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.full((2,), value)}, folder / "head.pt")
    return folder / "head.pt"


HEAD = Secondary("", prefix="head.", patterns=("head.pt",))


def with_a(model: Path, *secondary: Secondary, **more: object) -> Question:
    """`model`, whose class has these read, too; of its own folder where they name no other."""
    named = tuple(replace(one, model=one.model or str(model)) for one in secondary)
    return replace(Question(str(model), secondary=named), **more)  # type: ignore[arg-type]


def test_secondary_files_are_covered_with_their_prefix(vllm: Selector, model: Path) -> None:
    heads(model)
    answer = found(vllm, with_a(model, HEAD))

    assert answer.files == (
        (str(model / "model.safetensors"), ""),
        (str(model / "head.pt"), "head."),
    )
    assert answer.tensors is not None
    assert set(answer.tensors) == {"a", "head.weight"}


def test_another_secondary_file_is_other_evidence(vllm: Selector, model: Path) -> None:
    question = with_a(model, HEAD)
    heads(model, 1)
    before = found(vllm, question)
    heads(model, 2)
    after = found(vllm, question)

    assert before.full != after.full
    assert before.sample != after.sample
    assert found(vllm, Question(str(model))).full not in (before.full, after.full)


def test_a_missing_secondary_file_is_not_at_hand(vllm: Selector, model: Path) -> None:
    assert "Cannot find" in absent(vllm, with_a(model, HEAD))


def test_a_subfolder_is_covered_without_its_neighbours(vllm: Selector, model: Path) -> None:
    write(model / "whisper" / "model.safetensors", {"a": b"second"})
    write(model / "other" / "model.safetensors", {"a": b"third"})
    answer = found(vllm, with_a(model, Secondary("", subfolder="whisper", prefix="audio.")))

    assert [path for path, _ in answer.files] == [
        str(model / "model.safetensors"),
        str(model / "whisper" / "model.safetensors"),
    ]


COMMITS = ("c0ffee" * 6 + "c0ff", "decade" * 6 + "deca")


def repository(root: Path, repo: str, commit: str, data: bytes) -> Path:
    """A snapshot of weights alone."""
    made = write(root / "made" / "model.safetensors", {"a": data})
    snapshot = hub.lay_out(root, repo, commit, {"model.safetensors": made.read_bytes()})
    shutil.rmtree(root / "made")
    return snapshot


def test_another_repository_is_read_at_its_own_revision(
    vllm: Selector, model: Path, tmp_path: Path
) -> None:
    """At none that is named: the model's own does not apply to it."""
    repository(tmp_path, "org/tower", COMMITS[0], b"older")
    snapshot = repository(tmp_path, "org/tower", COMMITS[1], b"newer")
    tower = Secondary("org/tower", prefix="tower.")
    question = with_a(model, tower, revision="v1", download_dir=str(tmp_path / "hub"))
    answer = found(vllm, question)

    assert answer.files[1:] == ((str(snapshot / "model.safetensors"), "tower."),)
    at_commit = replace(question, secondary=(replace(tower, revision=COMMITS[0]),))
    older = found(vllm, at_commit)
    assert COMMITS[0] in older.files[1][0]
    assert older.full != answer.full


def test_another_repository_that_is_not_here_is_not_at_hand(
    vllm: Selector, model: Path, tmp_path: Path
) -> None:
    question = with_a(model, Secondary("org/tower"), download_dir=str(tmp_path / "hub"))

    assert "org/tower" in absent(vllm, question)


def test_a_repository_id_and_its_snapshot_are_the_same_files(
    vllm: Selector, tmp_path: Path
) -> None:
    snapshot = repository(tmp_path, "org/model", COMMITS[0], b"data")
    by_name = found(vllm, Question("org/model", download_dir=str(tmp_path / "hub")))
    by_path = found(vllm, Question(str(snapshot)))

    assert by_name.files == by_path.files
    assert by_name.commit == by_path.commit == f"org/model@{COMMITS[0]}"


def test_a_commit_stands_for_all_weights_or_for_none(vllm: Selector, tmp_path: Path) -> None:
    snapshot = repository(tmp_path, "org/model", COMMITS[0], b"data")
    repository(tmp_path, "org/tower", COMMITS[1], b"tower")
    heads(snapshot)
    plain = Question("org/model", download_dir=str(tmp_path / "hub"))
    own = replace(HEAD, model="org/model")

    assert found(vllm, replace(plain, secondary=(own,))).commit == f"org/model@{COMMITS[0]}"
    for other in (Secondary("org/tower"), replace(own, revision=COMMITS[0])):
        assert found(vllm, replace(plain, secondary=(own, other))).commit is None


def test_patterns_of_the_model_class_count_alone(vllm: Selector, model: Path) -> None:
    write(model / "draft.safetensors", {"a": b"draft"})
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))

    assert found(vllm, Question(str(model))).names == ["model.safetensors"]
    answer = found(vllm, Question(str(model), patterns=("draft*.safetensors",)))
    assert answer.names == ["draft.safetensors"]


def test_a_model_class_without_pt_files_has_none_read(vllm: Selector, tmp_path: Path) -> None:
    heads(tmp_path)

    assert found(vllm, Question(str(tmp_path), "hf")).names == ["head.pt"]
    absent(vllm, Question(str(tmp_path), "hf", no_pt=True))


def test_files_of_unused_tensors_do_not_count(vllm: Selector, model: Path) -> None:
    """vLLM looks into them to see that nothing in them is loaded."""
    extra = model / "extra.safetensors"
    write(extra, {"layers.0": b"one", "layers.1": b"two"})
    question = Question(str(model), unused=("layers.",))
    before = found(vllm, question)
    write(extra, {"layers.0": b"not", "layers.1": b"the same"})

    assert before.names == ["model.safetensors"]
    assert found(vllm, question).full == before.full
    write(extra, {"layers.0": b"one", "b": b"used"})
    assert found(vllm, question).names == ["extra.safetensors", "model.safetensors"]


# ModelScope.

FAKE = '''
from pathlib import Path

def snapshot_download(model_id, cache_dir=None, revision=None, local_files_only=False, **more):
    """Stands in for ModelScope's: everything is below one folder, and nothing is downloaded."""
    found = Path(cache_dir or {cache!r}, model_id, revision or "master")
    if not found.is_dir():
        raise ValueError("Cannot find the requested files in the cached path")
    return str(found)
'''


@pytest.fixture(scope="module")
def modelscope(home: Path) -> Iterator[Path]:
    """The cache of a `modelscope` package that stands in for the real one."""
    package = home / "packages" / "modelscope" / "hub"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    cache = home / "modelscope"
    (package / "snapshot_download.py").write_text(FAKE.format(cache=str(cache)))
    yield cache


MODELSCOPE = {"VLLM_USE_MODELSCOPE": "True"}


def test_modelscope_is_asked_where_vllm_asks_it(
    vllm: Selector, modelscope: Path, tmp_path: Path
) -> None:
    """At the revision, in its own cache whatever `download_dir` says, and before the Hub's."""
    vllm(selector.can_import, str(modelscope.parent / "packages"))
    write(modelscope / "org/model" / "master" / "model.safetensors", {"a": b"master"})
    older = write(modelscope / "org/model" / "v1" / "model.safetensors", {"a": b"older"})
    repository(tmp_path, "org/model", COMMITS[0], b"of the Hub")
    repository(tmp_path, "org/other", COMMITS[0], b"of the Hub")
    question = Question(
        "org/model", revision="v1", download_dir=str(tmp_path / "hub"), environment=MODELSCOPE
    )

    assert found(vllm, question).files == ((str(older), ""),)
    assert "master" in found(vllm, replace(question, revision=None)).files[0][0]
    assert "org/other is not on this host" in absent(vllm, replace(question, model="org/other"))
    of_the_hub = found(vllm, replace(question, revision=None, environment={}))
    assert COMMITS[0] in of_the_hub.files[0][0]


def test_without_the_package_nothing_of_modelscope_is_here(vllm: Selector) -> None:
    answer = vllm(selector.without_modelscope, Question("org/model", environment=MODELSCOPE))

    assert answer.refused == "NotAtHand"


# vLLM is left as it was.


@pytest.fixture
def other(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    for at in range(3):
        write(folder / f"{at}.safetensors", {f"{at}.{name}": b"other" for name in "abc"})
    return folder


def test_a_model_that_is_read_between_two_tensors_of_another_is_kept_apart(
    vllm: Selector, model: Path, other: Path
) -> None:
    replaced, one, between = vllm(selector.interrupted, Question(str(other)), Question(str(model)))

    assert replaced == []
    assert one.names == ["0.safetensors", "1.safetensors", "2.safetensors"]
    assert between.names == ["model.safetensors"]
    assert vllm(selector.replaced) == []


def test_a_model_that_gives_up_leaves_nothing_replaced(vllm: Selector, other: Path) -> None:
    assert vllm(selector.given_up, Question(str(other))) == []


def test_when_vllm_fails_half_way_we_say_so_and_nothing_is_replaced(
    vllm: Selector, model: Path
) -> None:
    said, replaced = vllm(selector.failing_while_it_chooses, Question(str(model)))

    assert "in vLLM" in said
    assert replaced == []


def test_threads_do_not_see_each_others_files(vllm: Selector, model: Path, other: Path) -> None:
    questions = [Question(str(folder)) for folder in (model, other, model, other)]

    assert vllm(selector.at_once, questions, 25) == (0, [])


def test_reading_again_is_noted_again(vllm: Selector, model: Path, tmp_path: Path) -> None:
    changed = write(tmp_path / "changed.safetensors", {"a": b"fir5t"}).read_bytes()

    assert vllm(selector.read_twice, Question(str(model)), changed) == (True, True, [])


# Other releases.


@pytest.mark.parametrize("kind", ["three and no subfolder", "another parameter", "reads by itself"])
def test_other_releases_are_asked_as_well(vllm: Selector, other: Path, kind: str) -> None:
    (other / INDEX).write_text(json.dumps({"weight_map": {"a": "0.safetensors"}}))
    write(other / "junk.safetensors", {"a": b"junk"})
    answer = vllm(selector.in_a_release, kind, Question(str(other)))

    agrees(answer)
    assert answer.names == ["0.safetensors"]


def test_what_another_release_does_not_tell_is_not_known_and_still_loads(
    vllm: Selector, model: Path
) -> None:
    answer = vllm(selector.in_a_release, "says it in another way", Question(str(model)))

    assert answer.refused == "IdentityError"
    assert answer.tensors is not None
    assert not answer.as_asked or answer.files == ()
