"""The README's tables name the settings that the code reads, and no others."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
NAME = re.compile(r"\bFAKECANN_[A-Z_]+\b")


def names(*patterns: str) -> set[str]:
    files = [path for pattern in patterns for path in HERE.glob(pattern)]
    return {name for path in files for name in NAME.findall(path.read_text())}


def test_the_readme_lists_every_setting() -> None:
    assert names("README.md") == names("src/**/*.cpp", "python/fakecann/*.py")


def test_the_readme_names_files_that_exist() -> None:
    readme = (HERE / "README.md").read_text()
    for name in re.findall(r"`((?:src|python)/[\w./]+)`", readme):
        assert (HERE / name).exists(), name
