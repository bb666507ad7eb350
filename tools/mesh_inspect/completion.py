"""What a shell asks while somebody types: commands, options, their values, members and models.

Others chose the names of members and models. One that a shell would read as more than a word is
not offered: it would stand in the command line as typed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    shell_complete,
    split_arg_string,
)

from mesh_inspect.looking import COMPLETE, PROGRAM, Inquiry, Means
from mesh_inspect.view.keys import KEYS, words
from mesh_inspect.view.rows import HoldingRow, rows_of
from netmesh import MeshError

TIMEOUT_S: Final = 1.0
"""For a look at the mesh while somebody waits for a key to do something."""

_WORD: Final = re.compile(r"[\w./:@%+,=\[\]-]+", re.ASCII)

_BREAKS: Final = ":="
"""Characters at which bash begins a word of its own, of those that our values have."""


@add_completion_class
class WordsOfBash(BashComplete):
    """bash, which divides `10.0.0.1:17946` into three words and replaces only the last one."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    while read -r line; do
        [[ -n $line ]] && COMPREPLY+=("$line")
    done < <(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1")
    [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        if line[-1:].isspace() or not words:
            return words, ""
        return words[:-1], words[-1]

    def complete(self) -> str:
        args, incomplete = self.get_completion_args()
        typed = incomplete
        if incomplete.startswith("--") and "=" in incomplete:
            typed = incomplete.partition("=")[2]
        done = max(typed.rfind(char) for char in _BREAKS) + 1
        found = [item.value for item in self.get_completions(args, incomplete)]
        return "\n".join(value[done:] for value in found if value.startswith(typed[:done]))


def complete(app: click.Command, means: Means, instruction: str) -> int:
    """Answer a shell; the exit status."""
    return shell_complete(app, {"obj": means}, PROGRAM, COMPLETE, instruction)


def source(app: click.Command, shell: str) -> str:
    """What a shell runs to complete the command line."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, shell
    return found(app, {}, PROGRAM, COMPLETE).source()


def offered(words: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    """Those that go on from what is typed."""
    return [
        CompletionItem(word)
        for word in words
        if word.startswith(incomplete) and _WORD.fullmatch(word)
    ]


def values(ctx: click.Context, key: str, incomplete: str) -> list[CompletionItem[str]]:
    """What members of the mesh have under a key now."""
    return offered(sorted(words(_rows(ctx), key)), incomplete)


def selectors(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """What the last part of a selector may go on with: keys, then values from the mesh."""
    before, comma, part = incomplete.rpartition(",")
    key, equals, _ = part.partition("=")
    if not equals:
        return offered((f"{before}{comma}{one}=" for one in KEYS), incomplete)
    if key.rstrip("!") not in KEYS:
        return []
    found = sorted(words(_rows(ctx), key.rstrip("!")))
    return offered((f"{before}{comma}{key}={one}" for one in found), incomplete)


def _rows(ctx: click.Context) -> tuple[HoldingRow, ...]:
    """The rows of the mesh that is meant so far; none where nobody answers soon."""
    chosen = ctx.params
    inquiry = Inquiry(ctx.obj or Means(), chosen.get("seeds") or (), chosen.get("mesh"), TIMEOUT_S)
    try:
        with inquiry.observer(quiet=True) as observer:
            return rows_of(observer.look(TIMEOUT_S))
    except MeshError:
        # There is nothing to offer, and no place to say why: the line is still being typed.
        return ()
