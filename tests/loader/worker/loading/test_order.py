"""The steps of a load fit together in one order, and in no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import pytest

from netloader.worker.loading.build import build
from netloader.worker.loading.fill import fill
from netloader.worker.loading.finish import finish
from netloader.worker.loading.plan import BuildAgain, plan
from netloader.worker.loading.serve import serve

STEPS: tuple[Callable[..., object], ...] = (plan, build, fill, finish, serve)
ROOT = Path(__file__).parents[4]

RIGHT = """
def load(request: LoadRequest, model: nn.Module) -> object:
    built = build(plan(request), model)
    assert not isinstance(built, BuildAgain)
    filled = fill(built, model)
    assert not isinstance(filled, BuildAgain)
    complete = finish(filled, model)
    assert not isinstance(complete, BuildAgain)
    return serve(complete, model)
"""

WRONG = {
    "filled before it was built": RIGHT.replace("fill(built", "fill(plan(request)"),
    "served before it was filled": RIGHT.replace("serve(complete", "serve(built"),
    "served before it was finished": RIGHT.replace("serve(complete", "serve(filled"),
    "built twice": RIGHT.replace("fill(built", "build(built"),
    "built again unnoticed": RIGHT.replace("    assert not isinstance(built, BuildAgain)\n", ""),
    "planned by nobody": RIGHT.replace("plan(request)", "request"),
}

IMPORTS = """
from torch import nn
from netloader.worker.loading.build import build
from netloader.worker.loading.fill import fill
from netloader.worker.loading.finish import finish
from netloader.worker.loading.plan import BuildAgain, plan
from netloader.worker.loading.request import LoadRequest
from netloader.worker.loading.serve import serve
"""


def kinds(annotation: object) -> set[object]:
    """The alternatives of a type."""
    if get_origin(annotation) is Future:
        return kinds(get_args(annotation)[0])
    return (
        set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}
    )


def taken(step: Callable[..., object]) -> set[object]:
    """What a step takes besides the model."""
    return kinds(next(iter(get_type_hints(step).values())))


def given(step: Callable[..., object]) -> set[object]:
    """What a step returns, but for a model that must be built again."""
    return kinds(get_type_hints(step)["return"]) - {BuildAgain}


@pytest.mark.parametrize(
    ("first", "second"), [*product(STEPS, repeat=2)], ids=lambda one: one.__name__
)
def test_a_step_takes_what_the_one_before_it_returns_and_nothing_else(
    first: Callable[..., object], second: Callable[..., object]
) -> None:
    follows = STEPS.index(second) == STEPS.index(first) + 1
    assert (given(first) <= taken(second)) == follows


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mypy_accepts_the_right_order_and_no_other(tmp_path: Path) -> None:
    """Slow: mypy reads the loader, and torch where it has no cache."""
    config = tmp_path / "pyproject.toml"
    ours = (ROOT / "pyproject.toml").read_text().splitlines()
    # What to check is said below, and only one place may say so.
    config.write_text("\n".join(line for line in ours if not line.startswith("packages = ")))
    snippets = {"right": RIGHT, **WRONG}
    # One run for all: each in a function of its own.
    text, lines = IMPORTS, {}
    for number, (name, snippet) in enumerate(snippets.items()):
        begin = text.count("\n")
        text += snippet.replace("def load(", f"def load_{number}(")
        lines[name] = range(begin, text.count("\n"))
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", config, "--no-error-summary", "-c", text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = [int(line.split(":")[1]) for line in told.splitlines() if ": error:" in line]
    wrong = {name for name, span in lines.items() if any(at - 1 in span for at in found)}
    assert wrong == set(WRONG), told
