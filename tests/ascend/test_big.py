"""A gibibyte over HCCL between two processes, and what a hundred sessions leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ascend.processes import START_S, Process

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

STREAMS = 32
"""torch_npu has as many streams for all sessions in turn, and the emulation gives each a thread."""


def test_a_gibibyte_in_two_hundred_tensors_arrives(tmp_path: Path) -> None:
    given = {"megabytes": 1024}
    with (
        Process("tests.ascend.big_end", tmp_path, "source", **given) as source,
        Process("tests.ascend.big_end", tmp_path, "replica", **given) as replica,
    ):
        for one in (source, replica):
            one.answer(START_S)
        held = source.ask("serve", seed=1, only=["hccl"], timeout_s=START_S)
        pulled = replica.ask("pull", endpoint=held["endpoint"], only=["hccl"], timeout_s=600.0)
        assert pulled["sha256"] == held["sha256"]
        assert pulled["transports"] == ["hccl"]


def test_a_hundred_sessions_leave_no_thread_descriptor_or_memory(tmp_path: Path) -> None:
    given = {"megabytes": 1}
    with (
        Process("tests.ascend.big_end", tmp_path, "source", **given) as source,
        Process("tests.ascend.big_end", tmp_path, "replica", **given) as replica,
    ):
        for one in (source, replica):
            one.answer(START_S)
        held = source.ask("serve", seed=1, only=["hccl"])
        given = {"endpoint": held["endpoint"], "timeout_s": 900.0}
        replica.ask("pull_often", times=STREAMS, **given)
        before = source.ask("held")
        told = replica.ask("pull_often", times=100, **given)
        assert told["after"]["free"] >= told["before"]["free"]
        for kind in ("threads", "descriptors"):
            assert told["after"][kind] <= told["before"][kind]
            assert source.ask("held")[kind] <= before[kind] + 2, kind
        assert source.ask("held")["free"] >= before["free"]
