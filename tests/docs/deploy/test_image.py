"""What the Dockerfile names is there. No image is built here."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Final

from tests.docs.deploy.manifests import IMAGE_USER

from netloader.engine.versions import check

ROOT: Final = Path(__file__).parents[3]

LINES: Final = [
    shlex.split(line)
    for line in (ROOT / "docs" / "deploy" / "Dockerfile").read_text().splitlines()
    if line and not line.startswith("#")
]


def lines(instruction: str) -> list[list[str]]:
    return [words[1:] for words in LINES if words[0] == instruction]


def test_every_file_that_is_copied_is_there() -> None:
    copied = {name for *names, _ in lines("COPY") for name in names}
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []


def test_what_the_build_needs_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *project["tool"]["setuptools"]["packages"]["find"]["where"],
    }
    assert needed == {name for *names, _ in lines("COPY") for name in names}


def test_the_user_is_that_of_the_manifests() -> None:
    assert lines("USER")[-1] == [":".join(map(str, IMAGE_USER))]


def test_the_version_of_vllm_is_one_that_works() -> None:
    ((arg,),) = lines("ARG")
    found = re.fullmatch(r"VLLM=vllm/vllm-openai:v(\d+\.\d+\.\d+)", arg)
    assert found is not None
    check(found[1], {})
