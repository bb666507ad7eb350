"""Each fault that the emulation injects, and what torch_npu makes of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.ascend.pairs import digest, started

COUNT = 1 << 20
AT = 300_000

SURVIVE = {"TORCH_HCCL_ASYNC_ERROR_HANDLING": "0"}
"""torch_npu's watchdog leaves the process alone; an error comes with the next synchronisation."""


@pytest.mark.parametrize("killed", ["source", "replica"])
def test_death_is_told_as_an_error(tmp_path: Path, killed: str) -> None:
    fault = "FAKECANN_KILL_AT_SENT" if killed == "source" else "FAKECANN_KILL_AT_RECEIVED"
    faults = {f"{killed}_env": {fault: str(AT)}}
    dead, alive = (0, 1) if killed == "source" else (1, 0)
    with started(tmp_path, env=SURVIVE, **faults) as pair:
        pair.begin(0, 1, count=COUNT, dtype="uint8", seed=1, dies=dead)
        assert "507048" in pair[alive].ask("error_of_wait")
        assert pair[dead].status() == -9
        assert f"killed with {AT} bytes" in pair[dead].output()
        assert pair[alive].is_alive()


def test_death_as_silence_lasts_for_the_execution_timeout(tmp_path: Path) -> None:
    env = SURVIVE | {"FAKECANN_PEER_DEATH": "silence", "HCCL_EXEC_TIMEOUT": "4"}
    with started(tmp_path, env=env, source_env={"FAKECANN_KILL_AT_SENT": str(AT)}) as pair:
        before = time.monotonic()
        pair.begin(0, 1, count=COUNT, dtype="uint8", seed=1, dies=0)
        assert "507048" in pair[1].ask("error_of_wait")
        assert time.monotonic() - before > 4
        assert pair[0].status() == -9


def test_by_default_the_watchdog_ends_the_survivor(tmp_path: Path) -> None:
    with started(tmp_path, source_env={"FAKECANN_KILL_AT_SENT": str(AT)}) as pair:
        pair.begin(0, 1, count=COUNT, dtype="uint8", seed=1, dies=0)
        # Catching the error would not help: the watchdog ends the process.
        assert pair[1].status() == -6


def test_one_byte_is_wrong_and_the_sender_keeps_the_right_one(tmp_path: Path) -> None:
    with started(tmp_path, source_env={"FAKECANN_CORRUPT_AT_SENT": str(AT)}) as pair:
        pair.transfer(0, 1, count=COUNT, dtype="uint8", seed=1)
        assert pair[1].ask("differs_at", name="in", dtype="uint8", seed=1) == [AT]
        assert pair[0].ask("digest", name="out") == digest(COUNT, "uint8", 1)
        # The fault names one byte of all transfers, so the next transfer is right.
        pair.transfer(0, 1, count=COUNT, dtype="uint8", seed=2)
        assert pair[1].ask("digest", name="in") == digest(COUNT, "uint8", 2)


def test_faults_wait_until_they_are_armed(tmp_path: Path) -> None:
    armed = tmp_path / "armed"
    env = {"FAKECANN_CORRUPT_AT_RECEIVED": "0", "FAKECANN_ARMED_BY": str(armed)}
    with started(tmp_path, replica_env=env) as pair:
        pair.transfer(0, 1, count=100, dtype="uint8", seed=1)
        assert pair[1].ask("digest", name="in") == digest(100, "uint8", 1)
        armed.touch()
        pair.transfer(0, 1, count=100, dtype="uint8", seed=2)
        assert pair[1].ask("differs_at", name="in", dtype="uint8", seed=2) == [0]


@pytest.mark.parametrize("silent", ["source", "replica"])
def test_a_silent_peer_lives_on_and_says_nothing_more(tmp_path: Path, silent: str) -> None:
    env = SURVIVE | {"ACL_STREAM_TIMEOUT": "3000"}
    fault = "FAKECANN_STALL_AT_SENT" if silent == "source" else "FAKECANN_STALL_AT_RECEIVED"
    faults = {f"{silent}_env": {fault: str(AT)}}
    with started(tmp_path, env=env, **faults) as pair:
        pair.begin(0, 1, count=COUNT, dtype="uint8", seed=1)
        other = pair[1] if silent == "source" else pair[0]
        assert "507046" in other.ask("error_of_wait")
        assert pair[0].is_alive() and pair[1].is_alive()
        pair[1].ask("abort_group")
        pair[0].ask("abort_group")


def test_operations_begin_late(tmp_path: Path) -> None:
    with started(tmp_path, source_env={"FAKECANN_DELAY_MS": "700"}) as pair:
        pair.transfer(0, 1, count=100, dtype="uint8", seed=1)
        assert pair[1].ask("digest", name="in") == digest(100, "uint8", 1)
        for _ in range(3):
            pair[1].ask("receive", name="in", source=0)
        assert pair[0].ask("timed_sends", name="out", to=1, times=3) > 3 * 0.7
        pair[1].ask("wait")


def test_a_communicator_that_finds_no_memory_says_so(tmp_path: Path) -> None:
    env = {"FAKECANN_MEMORY_MB": "24", "HCCL_CONNECT_TIMEOUT": "10"}
    with started(tmp_path, env=env) as pair:
        pair.everywhere("fill", [{"name": "x", "count": 8, "dtype": "int8", "seed": 0}] * 2)
        pair[0].say(do="send", name="x", to=1)
        pair[1].say(do="receive", name="x", source=0)
        for rank in (0, 1):
            answer = pair[rank].hear()
            assert "HCCL function error" in answer["error"]
            assert "has no 2 x 20 MiB for a communicator's buffers" in pair[rank].output()


def test_sizes_that_do_not_fit_fail_on_both_sides(tmp_path: Path) -> None:
    with started(tmp_path, env=SURVIVE) as pair:
        pair[0].ask("fill", name="out", count=100, dtype="uint8", seed=1)
        pair[1].ask("fill", name="in", count=99, dtype="uint8", seed=1)
        pair[0].say(do="send", name="out", to=1)
        pair[1].say(do="receive", name="in", source=0)
        for rank in (0, 1):
            pair[rank].answer()
        for rank in (0, 1):
            assert pair[rank].ask("error_of_wait")
