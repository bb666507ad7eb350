"""The other end of `processes.Process`: runs a test's commands one after the other."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ascend.channel import Channel, Ended


def arguments() -> tuple[Channel, dict[str, Any]]:
    """The channel to the test, which is this process's standard input, and what it gave."""
    channel = os.dup(0)
    # What this process starts must not hold the channel as well.
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return Channel.of_descriptor(channel), json.loads(sys.argv[1])


def serve(channel: Channel, run: Callable[..., Any]) -> None:
    """Answer each command by `run(name, **arguments)` until the test is gone. Never returns.

    An error is an answer too.
    """
    try:
        while True:
            message = channel.hear(None)
            name = message.pop("do")
            try:
                channel.say(value=run(name, **message))
            except Exception as error:  # noqa: BLE001 - whatever it is, the test has to judge it
                traceback.print_exc()
                channel.say(error=f"{type(error).__name__}: {error}")
    except Ended:
        pass
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of a group that failed would keep a plain exit waiting.
    os._exit(0)
