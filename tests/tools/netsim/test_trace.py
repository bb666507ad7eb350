import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from netsim import RunOptions, run
from netsim.cli import main
from netsim.trace import TraceMismatch, Verifier, parameters_of

SMALL = RunOptions("crash", 8, seed=3, settle_s=1.0, faults=1)


def digest(options: RunOptions) -> str:
    return run(options).trace


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    assert digest(SMALL) == digest(SMALL)
    assert digest(SMALL) != digest(RunOptions("crash", 8, seed=4, settle_s=1.0, faults=1))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["churn", "flap"])
def test_the_run_does_not_depend_on_how_python_hashes_strings(scenario: str) -> None:
    command = [sys.executable, "-m", "netsim", scenario, "--json"]
    command += ["--members", "12", "--duration", "40"]
    lines = {
        subprocess.run(
            command,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(lines) == 1


def test_a_trace_is_played_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "crash.trace"
    arguments = ["crash", "--members", "8", "--seed", "3", "--json"]
    assert main([*arguments, "--trace", str(file)]) == 0
    recorded = capsys.readouterr().out
    assert parameters_of(file)["members"] == 8
    assert main(["--against", str(file), "--json"]) == 0
    assert capsys.readouterr().out == recorded


def test_a_run_that_differs_names_the_first_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "crash.trace"
    main(["crash", "--members", "8", "--json", "--trace", str(file)])
    lines = file.read_text().splitlines()
    lines[40] = lines[40].replace(" ", " 1", 1)
    file.write_text("\n".join(lines))
    assert main(["--against", str(file)]) == 1
    assert "line 41" in capsys.readouterr().err


def test_a_trace_that_ends_early_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "short.trace"
    file.write_text(json.dumps({"format": "netmesh-sim-trace-1"}) + "\none\n")
    verifier = Verifier(file)
    verifier.add("one")
    with pytest.raises(TraceMismatch):
        verifier.close()


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text("{}\n")
    assert main(["--against", str(file)]) == 2
