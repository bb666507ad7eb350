"""Every line of `mesh-inspect` that a how-to shows is one that `mesh-inspect` understands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
import yaml

from mesh_inspect.cli import app
from mesh_inspect.view.transfers import LoadState
from netmesh import Status

DOCS: Final = Path(__file__).parents[3] / "docs"

PAGES: Final = [
    *sorted((DOCS / "howto").glob("*.md")),
    DOCS / "quickstart.md",
    DOCS / "security.md",
]

SCRIPTS: Final = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)

NAMED: Final = re.compile(r"`(mesh-inspect [^`]+)`")

ENDS: Final = ("|", ">", "&&", ";", ")", "2>&1")


def lines(text: str) -> Iterator[list[str]]:
    """The arguments of each `mesh-inspect` in a page."""
    found = [*NAMED.findall(text)]
    for script in SCRIPTS.findall(text):
        found += [
            line for line in script.replace("\\\n", " ").splitlines() if "mesh-inspect" in line
        ]
    for line in found:
        split = shlex.shlex(line, posix=True, punctuation_chars=True)
        split.whitespace_split = True
        words = list(split)
        places = [n for n, word in enumerate(words) if word.rpartition("/")[2] == "mesh-inspect"]
        for begin in places:
            rest = words[begin + 1 :]
            ends = [n for n, word in enumerate(rest) if word in ENDS]
            yield rest[: ends[0]] if ends else rest


def understood(arguments: list[str]) -> str:
    """Why a command line is refused; empty if it is not. Nothing is run."""
    try:
        with app.make_context("mesh-inspect", list(arguments)) as context:
            rest = [*getattr(context, "protected_args", ()), *context.args]
            if rest:
                _, command, rest = app.resolve_command(context, rest)
                assert command is not None
                command.make_context(command.name, rest, parent=context).close()
    except click.UsageError as error:
        return f"{shlex.join(arguments)}: {error.format_message()}"
    return ""


# Click 9 has no such attribute, and leaves all that is not parsed in `args`.
pytestmark = pytest.mark.filterwarnings("ignore:'protected_args' is deprecated")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_the_page_are_understood(page: Path) -> None:
    assert [fault for line in lines(page.read_text()) if (fault := understood(line))] == []


def test_pages_have_such_lines_and_a_wrong_one_is_noticed() -> None:
    assert sum(len(list(lines(page.read_text()))) for page in PAGES) > 30
    page = "```sh\n(umask 077; mesh-inspect keygen > f)\n"
    page += "x -- /b/mesh-inspect wait --cuont 4 | cat\n```\n"
    assert [*lines(page + "`mesh-inspect list -l a=b`")] == [
        ["list", "-l", "a=b"],
        ["keygen"],
        ["wait", "--cuont", "4"],
    ]
    assert understood(["wait", "--cuont", "4"])
    assert understood(["shoot"])


def test_every_state_of_a_load_is_on_the_page() -> None:
    page = (DOCS / "howto" / "watch.md").read_text()
    table = page[page.index("| STATE |") :].partition("\n\n")[0]
    of_members = {status.name.lower() for status in Status}
    assert (
        set(re.findall(r"`([a-z]+)`", table)) == {state.value for state in LoadState} - of_members
    )


def test_every_alert_is_on_the_page_with_its_severity() -> None:
    rules = yaml.safe_load((DOCS / "metrics" / "alerts.yaml").read_text())["groups"]
    page = (DOCS / "howto" / "watch.md").read_text()
    told = dict(re.findall(r"^\| `(Netloader\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert told == {
        rule["alert"]: rule["labels"]["severity"] for group in rules for rule in group["rules"]
    }
