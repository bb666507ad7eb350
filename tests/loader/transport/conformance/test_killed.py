"""A peer in another process, which is killed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.fastest import at_most
from tests.forked import ForkedProcess, start_loader
from tests.loader.transport.carriers import Carrier, started
from tests.loader.transport.conformance.support import LATE_S, MIB, PROMPT_S, fails

from netloader.transport import Group, TransportError, join


@contextmanager
def peer_process(carrier: Carrier, does: str) -> Iterator[tuple[ForkedProcess, list[str]]]:
    """A source in a process of its own that does this with every group it opens.

    Yields it, and the port and secret of one rendezvous for each group.
    """
    if not carrier.crosses_processes:
        pytest.skip(f"both ends of {carrier.name} are in one process")
    with start_loader("tests.loader.transport.peer_process", carrier.name, does) as process:
        try:
            # Libraries may have something to say first.
            said = next(line for line in process.stdout if line.startswith("meetings "))
            yield process, said.split()[1:]
        finally:
            process.kill()


def received_until_broken(carrier: Carrier, group: Group, flowing: threading.Event) -> None:
    """Keep four receives posted until the group breaks."""
    data = [carrier.zeros(8 * MIB) for _ in range(4)]
    pending = [group.recv(data[tag], tag) for tag in range(4)]
    for tag in range(4, 1 << 20):
        pending.pop(0).wait(LATE_S)
        flowing.set()
        pending.append(group.recv(data[tag % 4], tag))


@pytest.mark.timeout(240)  # torch_npu takes half a minute to import on a busy machine
def test_a_process_that_is_killed_in_mid_transfer_is_missed_by_all_its_groups(
    carrier: Carrier,
) -> None:
    with peer_process(carrier, "sends") as (process, meetings):
        backend = carrier.make()
        groups = [
            join("127.0.0.1", int(port), secret, backend, LATE_S)
            for port, secret in (meeting.split(":") for meeting in meetings)
        ]
        flowing = [threading.Event() for _ in groups]
        receiving = [
            started(lambda one=group, flows=flows: received_until_broken(carrier, one, flows))
            for group, flows in zip(groups, flowing, strict=True)
        ]
        assert all(flows.wait(LATE_S) for flows in flowing)
        assert not any(one.done() for one in receiving)
        with at_most(PROMPT_S):
            process.send_signal(signal.SIGKILL)
            for one in receiving:
                assert isinstance(one.exception(LATE_S), TransportError)
    assert len(groups) > 1
    for group in groups:
        group.abort()


@pytest.mark.timeout(240)  # torch_npu takes half a minute to import on a busy machine
def test_a_sender_is_held_no_longer_than_its_timeout_by_a_process_that_is_killed(
    carrier: Carrier,
) -> None:
    with peer_process(carrier, "stays") as (process, meetings):
        port, secret = meetings[0].split(":")
        group = join("127.0.0.1", int(port), secret, carrier.make(), LATE_S)
        sending = group.send(carrier.zeros(64 * MIB), 1)
        process.send_signal(signal.SIGKILL)
        assert fails(sending, 2.0, 3.0).startswith(
            f"send of {64 * MIB} bytes (tag 1) to the source: "
        )
        with pytest.raises(TransportError):
            group.recv(carrier.zeros(1), 2)


@pytest.mark.timeout(240)  # torch_npu takes half a minute to import on a busy machine
def test_a_process_that_is_killed_while_a_group_opens_is_missed_at_once(carrier: Carrier) -> None:
    with peer_process(carrier, "hangs") as (process, meetings):
        port, secret = meetings[0].split(":")
        backend = carrier.make()
        joining = started(lambda: join("127.0.0.1", int(port), secret, backend, LATE_S))
        assert process.stdout.readline() == "opening\n"
        with at_most(PROMPT_S):
            process.send_signal(signal.SIGKILL)
            assert isinstance(joining.exception(LATE_S), TransportError)
