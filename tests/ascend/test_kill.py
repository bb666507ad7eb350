"""A source or a replica dies over HCCL: the other lives on, and what it holds afterwards is right.

The dead one is a process whose emulated HCCL ends it by SIGKILL at a byte: the first one, which
opens the group, or one of the weights; or the test ends it once all has arrived. HCCL tells its
peer of that as an error, or not at all. The survivor is the same process for all moments.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.ascend.processes import START_S, Process, ProcessError

pytestmark = pytest.mark.timeout(1800)

MOMENTS = int(os.environ.get("NETLOADER_TEST_MOMENTS", "1"))
"""Random moments during a transfer, in each case. The full matrix has 20."""

WEIGHTS = 500_000
"""Bytes of the toy model, a little less than it has."""

PROMPT_S = 60.0
"""Half of torch_npu's wait, and far less than HCCL's: the survivor noticed by itself."""


def begin(home: Path, name: str, told: str, **faults: int) -> Process:
    env = {"FAKECANN_PEER_DEATH": told} | {key: str(value) for key, value in faults.items()}
    return Process("tests.ascend.staged_end", home, name, env=env, device="npu")


@contextmanager
def begun(home: Path, told: str, fault: str) -> Iterator[tuple[list[Process], Process, Process]]:
    """Those that die at each moment, a survivor, and one that stays well. All start at once."""
    moments = [0, *(random.randrange(1, WEIGHTS) for _ in range(MOMENTS))]
    with ExitStack() as stack:
        # None dies at the last: the test ends it.
        faults = [{fault: at} for at in moments] + [{}]
        dying = [
            stack.enter_context(begin(home, f"dying-{number}", told, **one))
            for number, one in enumerate(faults)
        ]
        survivor = stack.enter_context(begin(home, "survivor", told))
        well = stack.enter_context(begin(home, "well", told))
        for process in (*dying, survivor, well):
            process.answer(START_S)
        yield dying, survivor, well


@pytest.mark.parametrize("told", ["error", "silence"])
def test_a_replica_outlives_its_source(tmp_path: Path, told: str) -> None:
    with begun(tmp_path, told, "FAKECANN_KILL_AT_SENT") as (dying, replica, well):
        wanted = well.ask("serve", seed=1)
        for source in dying:
            endpoint = source.ask("serve", seed=1)["endpoint"]
            if source is dying[-1]:
                assert replica.ask("pull", endpoint=endpoint, only=["hccl"])["failures"] == []
                source.kill()
            else:
                with pytest.raises(ProcessError, match=r"the source has left|no process group"):
                    replica.ask("pull", endpoint=endpoint, only=["hccl"], timeout_s=PROMPT_S)
                assert source.status() == -9
            # What is missing comes from another source, over the same device.
            pulled = replica.ask("pull", endpoint=wanted["endpoint"], only=["hccl"])
            assert pulled["sha256"] == wanted["sha256"]
            assert pulled["transports"] == ["hccl"]


@pytest.mark.parametrize("told", ["error", "silence"])
def test_a_source_outlives_its_replica(tmp_path: Path, told: str) -> None:
    with begun(tmp_path, told, "FAKECANN_KILL_AT_RECEIVED") as (dying, source, well):
        held = source.ask("serve", seed=2)
        for replica in dying:
            if replica is dying[-1]:
                replica.ask("pull", endpoint=held["endpoint"], only=["hccl"])
                replica.kill()
            else:
                with pytest.raises(ProcessError):
                    replica.ask("pull", endpoint=held["endpoint"], only=["hccl"])
                assert replica.status() == -9
            pulled = well.ask("pull", endpoint=held["endpoint"], only=["hccl"], timeout_s=PROMPT_S)
            assert pulled["sha256"] == held["sha256"]
        assert source.is_alive()
