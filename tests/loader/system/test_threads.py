from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.fastest import HANG_S

_PULL_AND_END = """
import os, sys
from tests.loader.support import candidate, offer_of, pull_from, pull_into, serving, toy_weights

for _ in range(4):
    child = os.fork()
    if not child:
        serve = serving(offer_of(toy_weights(1)))
        pull_from(pull_into(toy_weights()), candidate(serve.__enter__()))
        sys.exit()
    print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_a_process_that_ends_right_after_a_pull_ends_well() -> None:
    """Its session and its stream are still closing their groups then."""
    done = subprocess.run(
        [sys.executable, "-c", _PULL_AND_END],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )

    assert done.stdout.splitlines() == ["status 0"] * 4, done.stderr[-2000:]
    assert "terminate called" not in done.stderr
