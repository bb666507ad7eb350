"""A source whose link is cut in the middle of a load: real hosts in network namespaces."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack

import pytest
from tests.fastest import took_less
from tests.loader.support import until

from netbench.child import Child, starting
from netbench.common import TIMEOUT_S
from netbench.hosts import Hosts, HostsError
from netbench.task import Task

pytestmark = pytest.mark.slow

TASK = Task("llama", 60_000_000, 2 << 20)
REPLICA = 3


def sent_by(hosts: Hosts, number: int) -> int:
    """How many bytes a host has sent."""
    counter = "/sys/class/net/eth0/statistics/tx_bytes"
    return int(subprocess.check_output([*hosts.inside(number), "cat", counter], timeout=30))


def test_the_other_source_brings_what_is_left_and_nobody_waits_for_the_timeout() -> None:
    with ExitStack() as stack:
        try:
            hosts = stack.enter_context(Hosts(REPLICA))
        except HostsError as error:
            pytest.skip(str(error))
        children: list[Child] = []
        for number in (1, 2):
            hosts.limit(number, "40mbit")
            spec = TASK.spec(host=hosts.address(number))
            children.append(Child("source_process", spec, prefix=hosts.inside(number)))
        replica = Child("replica_process", TASK.spec(), prefix=hosts.inside(REPLICA))
        *ready, _ = stack.enter_context(starting([*children, replica]))
        endpoints = [one["endpoint"] for one in ready]
        replica.tell("pull", endpoints=endpoints)
        # Both together take 6 s; a fifth of one half is several chunks.
        until(lambda: all(sent_by(hosts, number) > TASK.nbytes / 10 for number in (1, 2)))
        hosts.cut(1)
        pulled = replica.hear(2 * TIMEOUT_S)
        assert replica.ask("sha256") == children[1].ask("sha256")
        assert pulled["verified"] == pulled["chunks"]
        assert 0 < pulled["sources"].get(endpoints[0], 0) < pulled["sources"][endpoints[1]]
        assert [failure for failure in pulled["failures"] if endpoints[0] in failure]
        took_less(pulled["seconds"], TIMEOUT_S)
