"""`match` names who could feed a worker, and for each other member the one reason why not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mesh_inspect import cli
from mesh_inspect.commands.match import command as match_command
from netloader.discovery.advert import Holding
from netmesh import Generation, Member, Status

from .support import ALONE, holding, member, seeing

TWO = replace(ALONE, tp_size=2)


def at(number: int, *held: Holding, status: Status = Status.ALIVE, **changes: Any) -> Member:
    one = member(*held, id=f"10.0.0.{number}:17946", status=status, **changes)
    return replace(one, generation=Generation(number))


def held(number: int, model: str = "org/a", **changes: Any) -> Holding:
    endpoint = f"10.0.0.{number}:31000"
    made = holding(model, **{"endpoint": endpoint, "transports": ("tcp",), **changes})
    return made.changed(fields={**made.fields, "role": made.role})


def other(number: int) -> Holding:
    """Another architecture, and another dtype."""
    made = held(number, "org/other", place=TWO)
    return made.changed(fields={**made.fields, "architecture": "Qwen3", "dtype": "float16"})


LIKE = "10.0.0.1:17946"

MESH = [
    at(1, held(1, place=TWO, state="loading", fabric="rail-1")),
    at(2, held(2, place=TWO, serving=3)),
    at(3, held(3, place=TWO, fabric="rail-1")),
    at(4, held(4, place=replace(TWO, tp_rank=1))),
    at(5, held(5, place=TWO), status=Status.STALLED),
    at(6, held(6, place=TWO, state="unavailable", reason="its weights are being reloaded")),
    at(7, held(7, place=TWO, content={"sample": "0ther"})),
    at(8, other(8)),
    at(9, held(9, "org/a", role="draft")),
    at(10),
    at(11, held(11, place=TWO, transports=("hccl",), backend="hccl")),
    at(12, held(12, place=TWO), held(12, place=TWO, state="loading")),
    at(13, held(13, place=TWO, endpoint="127.0.0.1:31000")),
    at(14, held(14, place=TWO, fabric="rail-2")),
]


def document(
    members: list[Member], capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, dict[str, Any]]:
    status = cli.main(["match", "-o", "json", *arguments], seeing(members))
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, said


def test_each_member_is_a_source_or_has_one_reason(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = document(MESH, capsys, "--like", LIKE)
    (worker,) = said["workers"]
    assert (status, said["like"], worker["model"], worker["role"]) == (0, LIKE, "org/a", "target")
    assert worker["layout"]["tp_size"] == 2
    # Few sessions first, as a replica asks.
    assert [one["id"] for one in worker["sources"]] == [
        "10.0.0.12:17946",
        "10.0.0.3:17946",
        "10.0.0.2:17946",
    ]
    assert worker["sources"][2]["serving"] == 3
    reasons = {one["id"]: one["reason"] for one in worker["others"]}
    expected = {
        1: "is loading",
        4: "tp_rank: mine 0, theirs 1",
        5: "is stalled",
        6: "is unavailable: its weights are being reloaded",
        7: "checkpoint content (sample)",
        9: "holds no target model",
        10: "holds no target model",
        8: "architecture: mine 'LlamaForCausalLM', theirs 'Qwen3'",
        11: "backend: mine tcp, theirs hccl",
        13: "its endpoint 127.0.0.1:31000 may not be reached from here",
        14: "FABRIC: mine rail-1, theirs rail-2",
    }
    for number, words in expected.items():
        assert words in reasons.pop(f"10.0.0.{number}:17946")
    assert reasons == {}
    assert len(worker["sources"]) + len(worker["others"]) == len(MESH)


def test_the_nearest_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = document(MESH, capsys, "--like", LIKE)
    order = [one["id"].split(":")[0] for one in said["workers"][0]["others"]]
    assert order.index("10.0.0.7") < order.index("10.0.0.4") < order.index("10.0.0.10")


def test_people_read_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["match", "--like", LIKE], seeing(MESH)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "org/a (target, tp0/2): 3 could feed it"
    assert lines[1] == "  10.0.0.12:17946: 1.5GiB at 10.0.0.12:31000 by tcp, serving 0"
    assert lines[4] == "  not these 11:"
    assert len(lines) == 16


def test_nobody_who_could_feed_it_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = document([MESH[0], MESH[3]], capsys, "--like", LIKE)
    assert (status, said["workers"][0]["sources"]) == (2, [])
    assert cli.main(["match", "--like", "10.0.0.99:1"], seeing(MESH)) == 2
    assert "no member 10.0.0.99:1 with a model" in capsys.readouterr().err
    assert cli.main(["match", "--like", "10.0.0.10:17946"], seeing(MESH)) == 2


def test_a_worker_with_a_draft_needs_both(capsys: pytest.CaptureFixture[str]) -> None:
    both = at(1, held(1), held(1, "org/d", role="draft"))
    status, said = document([both, at(2, held(2))], capsys, "--like", LIKE)
    assert [len(one["sources"]) for one in said["workers"]] == [2, 1]
    assert status == 0


def test_what_a_hostile_member_publishes_is_shown_harmlessly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = at(2, held(2, "\x1b]0;owned\x07", state="unavailable", reason="\x1b[2J"))
    assert cli.main(["match", "--like", LIKE], seeing([at(1, held(1)), evil])) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_all_that_stands_behind_the_model_is_vllms() -> None:
    flags = ["-o", "x", "--seed=h", "--help", "--timeout", "--", "-tp", "2"]
    context = match_command.make_context("match", ["-o", "json", "--seed", "a", "org/m", *flags])
    assert context.params["model_and_flags"] == ("org/m", *flags)
    assert (context.params["form"], context.params["seeds"]) == ("json", ("a",))


@pytest.mark.parametrize(
    "arguments",
    [[], ["--like", LIKE, "MODEL"], ["-o", "wide", "--like", LIKE], ["--bogus"]],
)
def test_a_wrong_command_line_is_64(arguments: list[str]) -> None:
    assert cli.main(["match", *arguments]) == 64
