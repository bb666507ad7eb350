"""The tables that operators read say what the settings are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netloader.bounds import limits
from netloader.config import KEYS, field_of
from netloader.program import PROGRAM
from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings
from netmesh import MESH_KEYS

ROOT = Path(__file__).parents[3]


OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


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
        for key in cells[0].split(", "):
            found[key.strip("`")] = [key, *cells[1:]]
    return found


README = table((ROOT / "README.md").read_text(), "## Settings")


OPERATIONS_MESH = table(OPERATIONS, "## Settings")


OPERATIONS_SERVING = table(OPERATIONS, "## What serving may cost")


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


class TestDocuments:
    """The tables that operators read say what the settings are."""

    def test_every_setting_is_in_the_readmes_table_and_nothing_else(self) -> None:
        assert sorted(README) == sorted(KEYS)

    def test_the_readme_marks_the_settings_that_the_environment_may_hold(self) -> None:
        marked = {key for key, cells in README.items() if cells[1] == "\N{BLACK CIRCLE}"}
        assert marked == KEYS - UPSTREAM

    @pytest.mark.parametrize("key", sorted(KEYS - {"CONFIG_FILE"}))
    def test_the_readme_has_the_default(self, key: str) -> None:
        shown, default = README[key][3], default_of(key)
        if default in (None, (), {}):
            # What happens without one is told in words, which is no value.
            assert number(shown) is None and shown.strip("`") not in ("true", "false")
            return
        assert shown.strip("`").split(" ")[0] == written_out(default)

    @pytest.mark.parametrize("key", sorted(KEYS - {"CONFIG_FILE"}))
    def test_the_readme_has_the_bounds_of_each_number(self, key: str) -> None:
        assert limits(field_of(key)[1]) in README[key][2]

    def test_every_setting_of_the_mesh_is_on_the_operations_page(self) -> None:
        assert sorted(OPERATIONS_MESH) == sorted(MESH_KEYS)

    def test_the_operations_page_names_no_setting_that_is_none(self) -> None:
        named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", OPERATIONS))
        ours = {name for name in named if name.startswith(("MESH_", "MAX_", "RATE_", "CHUNK_"))}
        assert ours <= KEYS

    @pytest.mark.parametrize("key", [*OPERATIONS_MESH, *OPERATIONS_SERVING])
    def test_the_operations_page_has_the_default(self, key: str) -> None:
        shown = (OPERATIONS_MESH | OPERATIONS_SERVING)[key][1]
        default = default_of(key)
        if isinstance(default, bool):
            assert shown == ("on" if default else "off")
        elif isinstance(default, (int, float)):
            assert number(shown) == default
        elif isinstance(default, str):
            assert shown == f"`{default}`"
        else:
            assert number(shown) is None

    @pytest.mark.parametrize("key", [*OPERATIONS_MESH, *OPERATIONS_SERVING])
    def test_the_operations_page_has_the_bounds_of_each_number(self, key: str) -> None:
        assert limits(field_of(key)[1]) in (OPERATIONS_MESH | OPERATIONS_SERVING)[key][2]

    def test_a_bound_that_is_not_in_the_table_would_be_noticed(self) -> None:
        assert limits(field_of("MAX_SOURCES")[1]) == "1..64"
        assert "1..64" not in README["SOURCE_TIMEOUT"][2]

    def test_both_ends_of_a_pull_have_the_same_timeout(self) -> None:
        ends = (PullSettings, SourceSettings)
        pull, source = (part.__pydantic_fields__["timeout_s"] for part in ends)
        assert (pull.default, limits(pull)) == (source.default, limits(source))
