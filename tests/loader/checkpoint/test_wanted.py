from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.loader.trees import of, snapshot, write

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import WeightFile
from netloader.checkpoint.wanted import Files, Wanted, held, want
from netloader.errors import ConfigError, IdentityError
from netloader.identity.identity import Evidence

COMMIT = "org/name@c0ffee"


def files_of(files: list[WeightFile]) -> Files:
    return Files(
        tuple(files), frozenset(file.path.parent for file in files), evidence.stamps(files)
    )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A checkpoint in a plain folder."""
    paths = [write(tmp_path / f"{name}.safetensors", {name: name.encode() * 9}) for name in "ab"]
    return files_of(of(paths))


@pytest.fixture
def in_cache(tmp_path: Path, files: Files) -> Files:
    """The same in the Hub's cache."""
    return files_of(snapshot(tmp_path / "hub", {file.path.name: file.path for file in files.files}))


def wanted(
    files: Files | None,
    *,
    commit: str | None = None,
    demanded: Mapping[Evidence, str] | None = None,
    full: bool = False,
) -> Wanted:
    absent = "" if files is not None else "no file here"
    made = want(files, absent, commit, demanded or {}, None, full=full)
    assert made is not None
    return made


def rewrite(files: Files) -> None:
    path = files.files[0].path
    write(path, {"a": b"something else"})


def touch(files: Files) -> None:
    os.utime(files.files[0].path, ns=(1, 1))


def remove(files: Files) -> None:
    files.files[-1].path.unlink()


CHANGES = pytest.mark.parametrize("change", [rewrite, touch, remove])


# What is wanted.


def test_files_in_a_plain_folder_give_a_sample_and_on_demand_a_full_digest(files: Files) -> None:
    assert wanted(files).content.make_all() == {Evidence.SAMPLE: evidence.sample(files.files)}
    assert wanted(files, full=True).content.make_all() == {
        Evidence.SAMPLE: evidence.sample(files.files),
        Evidence.FULL: evidence.full(files.files),
    }


def test_files_in_the_hubs_cache_give_the_names_of_blobs_and_the_commit_as_well(
    in_cache: Files,
) -> None:
    assert wanted(in_cache, commit=COMMIT).content.make_all() == {
        Evidence.BLOBS: evidence.blobs(in_cache.files),
        Evidence.SAMPLE: evidence.sample(in_cache.files),
        Evidence.COMMIT: COMMIT,
    }


def test_nothing_is_read_before_somebody_asks(files: Files) -> None:
    made = wanted(files, full=True)
    remove(files)

    assert made.content.known == {}
    assert made.content.get(Evidence.SAMPLE) is None
    assert "b.safetensors" in made.content.problems[0]


def test_without_files_the_commit_is_all_that_is_known(files: Files) -> None:
    made = wanted(None, commit=COMMIT)

    assert made.files is None
    assert made.absent == "no file here"
    assert made.content.make_all() == {Evidence.COMMIT: COMMIT}


def test_nothing_known_is_nothing_wanted() -> None:
    assert want(None, "no file here", None, {}, None, full=True) is None


@pytest.mark.parametrize("commit", [None, COMMIT])
def test_what_is_demanded_counts_alone(files: Files, commit: str | None) -> None:
    demanded = {Evidence.SAMPLE: "5" * 32}
    made = wanted(files, commit=commit, demanded=demanded, full=True)

    assert made.content.make_all() == demanded
    assert made.files is files


# Before storage is read.


@pytest.mark.parametrize("kind", [Evidence.SAMPLE, Evidence.FULL])
def test_files_that_hold_what_is_demanded_are_read(files: Files, kind: Evidence) -> None:
    right = {Evidence.SAMPLE: evidence.sample, Evidence.FULL: evidence.full}[kind](files.files)

    wanted(files, demanded={kind: right}).check_demanded(None)


@pytest.mark.parametrize("kind", [Evidence.SAMPLE, Evidence.FULL, Evidence.BLOBS])
def test_files_that_hold_something_else_stop_the_start(in_cache: Files, kind: Evidence) -> None:
    made = wanted(in_cache, demanded={kind: "5" * 32})
    with pytest.raises(ConfigError, match="CONTENT") as raised:
        made.check_demanded(None)

    assert raised.value.value == f"{kind}:{'5' * 32}"
    assert f"{kind}:" in raised.value.allowed


@pytest.mark.parametrize(("kind", "value"), [(Evidence.COMMIT, COMMIT), (Evidence.BLOBS, "5" * 32)])
def test_what_a_plain_folder_cannot_tell_does_not_stop_the_start(
    files: Files, kind: Evidence, value: str
) -> None:
    wanted(files, demanded={kind: value}).check_demanded(None)


def test_nothing_is_checked_where_there_is_nothing_to_read(files: Files) -> None:
    wanted(None, demanded={Evidence.SAMPLE: "5" * 32}).check_demanded(None)
    wanted(files).check_demanded(None)


def test_files_that_cannot_be_checked_are_said_to_be_so(files: Files) -> None:
    made = wanted(files, demanded={Evidence.SAMPLE: "5" * 32})
    remove(files)
    with pytest.raises(IdentityError, match=r"b\.safetensors"):
        made.check_demanded(None)


# After storage has been read.


def test_what_was_read_gives_evidence_of_its_own(files: Files) -> None:
    found, problem = held(files, None, None, full=True)

    assert problem is None
    assert found.make_all() == {
        Evidence.SAMPLE: evidence.sample(files.files),
        Evidence.FULL: evidence.full(files.files),
    }


def test_what_was_made_of_the_same_files_is_not_made_again(files: Files, tmp_path: Path) -> None:
    made = wanted(files)
    made.content.make_all()
    found, problem = held(files, made, None, full=False)

    assert problem is None
    assert found.known == made.content.known != {}


@CHANGES
def test_files_that_change_while_they_are_read_are_evidence_of_nothing(
    files: Files, change: Callable[[Files], None]
) -> None:
    made = wanted(files)
    made.content.make_all()
    change(files)
    found, problem = held(files, made, None, full=True)

    assert found.make_all() == {}
    assert problem is not None
    assert "safetensors" in problem


@pytest.mark.parametrize("change", [rewrite, touch])
def test_files_that_changed_between_asking_and_reading_are_evidence_of_nothing(
    files: Files, change: Callable[[Files], None]
) -> None:
    """Peers were asked for something else than what is in the model now."""
    made = wanted(files)
    made.content.make_all()
    change(files)
    found, problem = held(files_of(list(files.files)), made, None, full=False)

    assert found.make_all() == {}
    assert problem is not None
    assert "since this worker asked" in problem


def test_other_files_give_evidence_of_themselves(files: Files, tmp_path: Path) -> None:
    made = wanted(files)
    made.content.make_all()
    other = files_of(of([write(tmp_path / "other.safetensors", {"a": b"other"})]))
    found, problem = held(other, made, None, full=False)

    assert problem is None
    assert found.known == {}
    assert found[Evidence.SAMPLE] == evidence.sample(other.files)


def test_files_in_another_order_are_looked_at_anew(files: Files) -> None:
    made = wanted(files)
    made.content.make_all()
    other = files_of(list(reversed(files.files)))

    assert held(other, made, None, full=False)[0].known == {}


def test_a_commit_is_not_held_because_it_was_wanted(in_cache: Files) -> None:
    made = wanted(in_cache, commit=COMMIT)
    made.content.make_all()
    found, _ = held(in_cache, made, None, full=False)

    assert Evidence.COMMIT not in found.make_all()


def test_what_was_demanded_is_not_held_because_of_that(files: Files) -> None:
    made = wanted(files, demanded={Evidence.FULL: "5" * 32})
    found, _ = held(files, made, None, full=False)

    assert found.known == {}
    assert found.make_all() == {Evidence.SAMPLE: evidence.sample(files.files)}


def test_evidence_of_files_that_came_meanwhile_is_their_own(files: Files) -> None:
    """Wanted by commit alone, and downloaded when no peer had it."""
    found, problem = held(files, wanted(None, commit=COMMIT), None, full=False)

    assert problem is None
    assert found.make_all() == {Evidence.SAMPLE: evidence.sample(files.files)}


# The id that operators hand on.


def test_paths_of_files_have_no_links(tmp_path: Path, files: Files, in_cache: Files) -> None:
    assert all(path.parent.name == "blobs" for path in in_cache.paths)
    assert files.paths == {file.path for file in files.files}
