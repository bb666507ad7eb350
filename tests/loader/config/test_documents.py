"""The table that operators read says what the settings are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netloader.bounds import limits
from netloader.config import KEYS, field_of
from netloader.program import PROGRAM
from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


UPSTREAM = {
    "SOURCE",
    "MODEL",
    "LISTEN_PORT",
    "INT8_CACHE",
    "INT8_CACHE_NAME",
    "OUTPUT_PREFIX",
    "CONFIG_FILE",
}


def table(text: str, begin: str) -> dict[str, list[str]]:
    """The cells of each setting's row in the first table after `begin`."""
    rows = text[text.index(begin) :].split("\n| key ", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    found = {}
    for row in rows:
        cells = [
            cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split("|")
        ]
        found[re.sub(r"\[`(\w+)`\]\(#\w+\)", r"\1", cells[0])] = cells
    return found


SETTINGS = table((ROOT / "docs" / "reference" / "settings.md").read_text(), "# Settings")


def number(shown: str) -> float | None:
    """The value of a cell that is a number: `4`, `32 MiB`."""
    match = re.fullmatch(r"`?([0-9.]+)`?( MiB)?", shown)
    return None if match is None else float(match[1]) * (1 << 20 if match[2] else 1)


def default_of(key: str) -> object:
    if key == "MESH_KUBERNETES_SERVICE":
        return PROGRAM.service
    return field_of(key)[1].get_default(call_default_factory=True)


def written_out(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def named(text: str) -> set[str]:
    """What a text calls a setting: capitals in code, with an underscore or the prefix."""
    found = set(re.findall(r"`(?:export )?(?:NETLOADER_)?([A-Z][A-Z0-9]*_[A-Z0-9_]+)[`=]", text))
    return {name for name in found if name.startswith(("MESH_", "MAX_", "RATE_", "CHUNK_"))}


class TestDocuments:
    """What operators read says what the settings are."""

    def test_every_setting_is_in_the_table_and_nothing_else(self) -> None:
        assert sorted(SETTINGS) == sorted(KEYS)

    def test_the_table_marks_the_settings_that_the_environment_may_hold(self) -> None:
        assert {key for key, cells in SETTINGS.items() if cells[3] == "yes"} == KEYS - UPSTREAM

    @pytest.mark.parametrize("key", sorted(KEYS - {"CONFIG_FILE"}))
    def test_the_table_has_the_default(self, key: str) -> None:
        shown, default = SETTINGS[key][1], default_of(key)
        if default in (None, (), {}):
            # What happens without one is told in words, which is no value.
            assert number(shown) is None and shown.strip("`") not in ("true", "false", "")
            return
        assert shown.strip("`") == written_out(default)

    @pytest.mark.parametrize("key", sorted(KEYS - {"CONFIG_FILE"}))
    def test_the_table_has_the_bounds_of_each_number(self, key: str) -> None:
        assert limits(field_of(key)[1]) in SETTINGS[key][2]

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_no_page_names_a_setting_that_is_none(self, page: Path) -> None:
        assert named(page.read_text()) <= KEYS

    def test_a_bound_that_is_not_in_the_table_would_be_noticed(self) -> None:
        assert limits(field_of("MAX_SOURCES")[1]) == "1..64"
        assert "1..64" not in SETTINGS["SOURCE_TIMEOUT"][2]

    def test_a_setting_that_is_none_would_be_noticed(self) -> None:
        assert named("`MESH_NOWHERE` and `NETLOADER_MAX_ALL=1`") == {"MESH_NOWHERE", "MAX_ALL"}

    def test_both_ends_of_a_pull_have_the_same_timeout(self) -> None:
        ends = (PullSettings, SourceSettings)
        pull, source = (part.__pydantic_fields__["timeout_s"] for part in ends)
        assert (pull.default, limits(pull)) == (source.default, limits(source))
