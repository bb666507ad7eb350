"""Every format and exit status, to the letter, and every document as the published schema says."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.fastest import HANG_S

import mesh_inspect
from mesh_inspect import cli
from mesh_inspect.exits import InspectExit
from mesh_inspect.view.changes import KINDS
from mesh_inspect.view.keys import KEYS
from netmesh import JsonObject, Member, MeshError, Status

from .goldens import CASES, ENVIRONMENT, FOLDER, HOSTILE, MESH, decides
from .support import PlayedMesh, member, seeing

SCHEMA: dict[str, Any] = json.loads(
    (Path(mesh_inspect.__file__).parent / "schema/mesh-v1.json").read_text()
)
VALID = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in filter(decides, list(os.environ)):
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def of(kind: str) -> jsonschema.Draft202012Validator:
    """Checks one kind of document, which the schema as a whole would take for another."""
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})


def body(name: str) -> str:
    """What a case prints on stdout."""
    lines = CASES[name].printed().splitlines()[1:-1]
    return "\n".join(line for line in lines if not line.startswith("stderr: "))


@pytest.mark.parametrize("name", CASES)
def test_the_output_is_what_is_in_the_file(name: str) -> None:
    told = "if it should be another: python -m tests.tools.mesh_inspect.goldens"
    assert CASES[name].printed() == (FOLDER / f"{name}.txt").read_text(), told


def test_there_is_a_file_for_each_case_and_a_case_for_each_exit_status() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(CASES)
    ends = {file.read_text().splitlines()[-1] for file in FOLDER.iterdir()}
    # 1 is for what should not happen: `test_failures_are_told`.
    assert ends >= {f"exit status {status.value}" for status in InspectExit if status != 1}


def test_the_documentation_shows_what_is_printed() -> None:
    page = (Path(__file__).parents[3] / "docs/mesh-inspect.md").read_text()
    shown = re.findall(r"^```console\n(\$ mesh-inspect.*?)^```$", page, re.MULTILINE | re.DOTALL)
    printed = {
        "".join(file.read_text().splitlines(keepends=True)[:-1]) for file in FOLDER.glob("docs-*")
    }
    assert len(shown) >= 10
    # What `doctor` says is about the world.
    assert [one for one in shown if one not in printed and " doctor\n" not in one] == []
    for key in KEYS:
        assert f"`{key}`" in page, key


def test_the_schema_is_one_and_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    (kinds,) = (
        one["properties"]["kind"]["enum"]
        for one in SCHEMA["$defs"]["event"]["oneOf"]
        if "kind" in one["properties"]
    )
    assert kinds == list(KINDS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("list-json", "list"),
        ("status-2-json", "list"),
        ("list-by-model-json", "groups"),
        ("models-json", "models"),
        ("get-json", "get"),
        ("transfers-json", "transfers"),
        ("match-json", "match"),
    ],
)
def test_documents_are_as_the_schema_says(name: str, kind: str) -> None:
    document = json.loads(body(name))
    VALID.validate(document)
    of(kind).validate(document)
    # Keys are never missing.
    for key in document:
        with pytest.raises(jsonschema.ValidationError):
            of(kind).validate({other: document[other] for other in document if other != key})


@pytest.mark.parametrize(
    ("name", "kind"),
    [("list-jsonl", "entry"), ("list-watch-jsonl", "event"), ("transfers-watch-jsonl", "event")],
)
def test_lines_are_as_the_schema_says(name: str, kind: str) -> None:
    lines = body(name).splitlines()
    assert len(lines) >= 3
    for line in lines:
        VALID.validate(json.loads(line))
        of(kind).validate(json.loads(line))


def test_yaml_and_csv_say_what_json_says() -> None:
    document = json.loads(body("list-json"))
    assert yaml.safe_load(body("list-yaml")) == document
    rows = list(csv.DictReader(io.StringIO(body("list-csv"))))
    assert [row["id"] for row in rows] == [entry["id"] for entry in document["members"]]
    assert [row["layout.tp_rank"] for row in rows if row["model"] == "org/moe"] == list("01233")
    fed = next(row for row in rows if row["feeds"])
    assert json.loads(fed["feeds"])["id"] == "10.0.0.1:17946"


def test_no_text_of_a_member_becomes_anything_else() -> None:
    """A formula in a spreadsheet, an escape in a terminal, a key or another type in YAML."""
    rows = list(csv.DictReader(io.StringIO(body("list-csv"))))
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    models = [entry["model"] for entry in yaml.safe_load(body("list-yaml"))["members"]]
    assert HOSTILE in models
    for name in CASES:
        printed = CASES[name].printed()
        assert all(line.isprintable() for line in printed.splitlines()), name
        if name.endswith(("json", "jsonl", "yaml")):
            assert printed.isascii(), name


@pytest.mark.parametrize(
    "advert",
    [
        {"x": [1e300, -1e-300, 1.5, True, None, [], {}, [[]], [{}], [{"a": [1, {"b": "c"}]}]]},
        {"true": "false", "null": "~", "1": "1e3", "": " ", "a: b": "- c", "#": "&x *y !z"},
        {"no": "no", "y": "2026-01-01", "k": "0x1F", "l": "1_000", "m": ".inf", "n": "<<"},
        {"\x00\u2028\U0001f600": "\x7f\x85\ufeff\u00e9\ud7ff", "q": "\"'\\"},
        {"deep": {"deep": {"deep": [{"deep": [[[1, 2], [3]], []]}]}}},
    ],
)
def test_any_advert_survives_yaml_and_json(
    advert: JsonObject, capsys: pytest.CaptureFixture[str]
) -> None:
    one: Member = member(id="10.0.0.1:1", raw=advert)
    for form, read in (("yaml", yaml.safe_load), ("json", json.loads)):
        assert cli.main(["get", "10.0.0.1", "-o", form], seeing([one])) == 0
        printed = capsys.readouterr().out
        assert printed.isascii()
        document = read(printed)
        assert document["members"][0]["advert"] == advert
        of("get").validate(document)
    assert cli.main(["get", "10.0.0.1"], seeing([one])) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


def test_every_help_has_examples_and_they_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].partition("\n\n")[0]
    commands = re.findall(r"^  (\w+)  +\S", listed, re.MULTILINE)
    assert len(commands) >= 11
    for name in commands:
        assert cli.main([name, "--help"]) == 0
        examples = capsys.readouterr().out.partition("Examples:\n")[2].splitlines()
        assert examples, name
        for example in examples:
            program, *arguments = shlex.split(re.split(r" [|>]", example)[0])
            assert (program, arguments[0]) == ("mesh-inspect", name)
            if name not in OF_THE_WORLD:
                mesh = PlayedMesh(None)
                mesh.answer = Status.LEFT
                assert cli.main(arguments, mesh.means) in (0, 3), example


OF_THE_WORLD = {"doctor", "record", "web", "top"}
"""Commands that look at more than a mesh, or that do not end."""


def test_failures_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([], PlayedMesh(MeshError("out of descriptors\x1b[2J")).means) == 1
    assert capsys.readouterr().err == "mesh-inspect: out of descriptors\\x1b[2J\n"


def test_a_locale_without_the_letters_prints_escapes() -> None:
    program = (
        "import sys; from tests.tools.mesh_inspect.goldens import MESH; "
        "from tests.tools.mesh_inspect.support import seeing; from mesh_inspect import cli; "
        "sys.exit(cli.main([], seeing(MESH)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=HANG_S,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\U0001f600" in done.stdout and len(done.stdout.splitlines()) == len(MESH) + 2
