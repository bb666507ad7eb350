"""Versions of vLLM: which are taken, and in which words the others are refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from netloader.engine.versions import ANY_VLLM, FIRST, LAST, check
from netloader.errors import UnsupportedError
from netloader.program import ENV_PREFIX

CHECKED = ["0.18.0", "0.18.1", "0.23.0", "0.23.0+empty", "0.32.0+cpu", "0.33.0"]
CHECKED += ["0.19.1rc1.dev27+g1234abc", "0.33.1.dev5+gdeadbee.d20261125"]
OTHERS = ["0.17.1", "0.9.2", "0.34.0", "1.0.0", "1.20.0", "10.18", "dev", "", "0.1.dev1+gabc"]


@pytest.mark.parametrize("version", CHECKED)
def test_a_version_that_was_checked_is_taken(version: str) -> None:
    check(version, {})


@pytest.mark.parametrize("version", OTHERS)
def test_another_version_is_refused_with_the_range_and_what_to_do(version: str) -> None:
    with pytest.raises(UnsupportedError) as raised:
        check(version, {})
    words = str(raised.value)
    assert f"this is vLLM {version}" in words
    assert ".".join(map(str, FIRST)) in words and ".".join(map(str, LAST)) in words
    assert "--load-format" in words and f"{ANY_VLLM}=1" in words


def test_the_variable_has_the_prefix_of_all() -> None:
    assert ANY_VLLM.startswith(ENV_PREFIX)


@pytest.mark.parametrize("version", OTHERS)
def test_an_operator_may_try_another_version(version: str) -> None:
    check(version, {ANY_VLLM: "1"})
    with pytest.raises(UnsupportedError):
        check(version, {ANY_VLLM: "0"})


def test_the_extra_installs_a_version_that_was_checked() -> None:
    root = Path(__file__).parents[3]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = f"vllm>={FIRST[0]}.{FIRST[1]},<{LAST[0]}.{LAST[1] + 1}"
    assert wanted in extras["vllm"] and wanted in extras["ascend"]
    range_in_words = f"{FIRST[0]}.{FIRST[1]} to {LAST[0]}.{LAST[1]}"
    for page in ("README.md", "docs/howto/ascend.md", "docs/howto/cuda.md"):
        assert range_in_words in (root / page).read_text()
