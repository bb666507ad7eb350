"""A source that is killed in the middle of a transfer is missed at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from netloader.transport import Group, TransportError, join
from netloader.transport.gloo import STRIPE_FROM, GlooBackend

GROUPS = 6

SENDER = f"""
import sys, threading, torch
from netloader.transport import Rendezvous
from netloader.transport.gloo import GlooBackend

def send(rendezvous):
    group = rendezvous.open(GlooBackend())
    data = torch.ones({STRIPE_FROM}, dtype=torch.uint8)
    pending = []
    for tag in range(1 << 20):
        pending.append(group.send(data, tag))
        if len(pending) > 2:
            pending.pop(0).wait(60)

for _ in range({GROUPS}):
    rendezvous = Rendezvous("127.0.0.1", 60)
    print(rendezvous.port, rendezvous.secret, flush=True)
    threading.Thread(target=send, args=(rendezvous,), daemon=True).start()
sys.stdin.read()
"""


@pytest.mark.slow  # an interpreter of its own, and torch in it
def test_a_process_that_is_killed_in_mid_transfer_is_missed_by_all_its_groups(
    tmp_path: Path,
) -> None:
    script = tmp_path / "sender.py"
    script.write_text(SENDER)
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdout is not None
        groups = []
        for _ in range(GROUPS):
            port, secret = sender.stdout.readline().split()
            groups.append(join("127.0.0.1", int(port), secret, GlooBackend(), 30))
        broken_at: list[float] = []
        threads = [
            threading.Thread(target=receive_until_broken, args=(group, broken_at))
            for group in groups
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)  # Let bytes flow: the middle of a transfer is the point.
        assert not broken_at
        killed_at = time.monotonic()
        sender.kill()
        for thread in threads:
            thread.join(20)
    assert len(broken_at) == GROUPS
    assert max(broken_at) - killed_at < 2
    for group in groups:
        group.abort()


def receive_until_broken(group: Group, broken_at: list[float]) -> None:
    data = [torch.zeros(STRIPE_FROM, dtype=torch.uint8) for _ in range(4)]
    pending = [group.recv(data[tag], tag) for tag in range(4)]
    try:
        for tag in range(4, 1 << 20):
            pending.pop(0).wait(30)
            pending.append(group.recv(data[tag % 4], tag))
    except TransportError:
        broken_at.append(time.monotonic())
