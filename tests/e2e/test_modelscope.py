"""Weights in ModelScope's cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e import reading
from tests.e2e.asking import COMMITS, absent, found, repository
from tests.e2e.reading import Question
from tests.e2e.selector import Selector
from tests.loader.trees import write

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(360)]


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
    vllm(reading.can_import, str(modelscope.parent / "packages"))
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
    answer = vllm(reading.without_modelscope, Question("org/model", environment=MODELSCOPE))

    assert answer.refused == "NotAtHand"
