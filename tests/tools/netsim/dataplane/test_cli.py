"""`python -m netsim fanout` and `coldstart`, the table of targets, and the chart."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from netsim.cli import main
from netsim.dataplane import evidence
from netsim.dataplane.chart import draw
from netsim.dataplane.fanout import play

FIELDS = {"makespan_s", "ideal_s", "ratio", "per_replica_s", "source_bytes", "storage_bytes"}
SMALL = ["--bytes", "16MB", "--chunk-bytes", "1MB", "--replicas", "3"]


def test_one_object_for_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fanout", *SMALL, "--rate", "400mbit", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"upstream", "naive", "swarm"}
    for result in printed.values():
        assert set(result) >= FIELDS
        assert len(result["per_replica_s"]) == 3
        assert result["ideal_s"] == pytest.approx(16e6 / 50e6)


def test_a_cold_start_reads_storage(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["coldstart", *SMALL, "--storage-rate", "200mbit", "--policy", "swarm", "--json"]
    assert main(command) == 0
    (result,) = json.loads(capsys.readouterr().out).values()
    assert result["storage_bytes"] == 16_000_000
    assert result["ratio"] > 2.0
    assert result["bound_s"] is None


def test_options_reach_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    slow = ["--host-rate", "0=100mbit", "--policy", "swarm"]
    assert main(["fanout", *SMALL, *slow, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["swarm"]["ratio"] > 4.0
    assert main(["fanout", *SMALL, "--churn", "2", "--placement", "2,1", "--policy", "swarm"]) == 0
    assert capsys.readouterr().out.startswith("swarm     makespan ")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rate", "fast"],
        ["--bytes", "100"],
        ["--replicas", "0"],
        ["--host-rate", "a=100mbit"],
        ["--placement", "2,0"],
        ["--policy", "other"],
    ],
    ids=lambda wrong: wrong[0],
)
def test_wrong_arguments_are_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fanout", *wrong])
    assert exit_.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_target_is_met_or_missed_by_its_result() -> None:
    spread = evidence.TARGETS[0]
    small = replace(spread.options, replicas=1)
    result = play(small)
    assert spread.met(small, result)
    assert not spread.met(small, replace(result, ratio=1.16))
    assert not spread.met(small, replace(result, source_bytes=2 * small.nbytes))


def test_the_chart_has_a_line_for_each_policy() -> None:
    chart = draw("a < b", "N", "ratio", {"one": [(1, 1.0), (8, 8.4)], "two": [(1, 1.0), (8, 1.1)]})
    document = ElementTree.fromstring(chart)
    names = [element.tag.rpartition("}")[2] for element in document]
    assert names.count("polyline") == 2
    texts = [element.text for element in document if element.tag.endswith("text")]
    assert "a < b" in texts and "one: 8.40" in texts and "two: 1.10" in texts
