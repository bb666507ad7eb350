"""What an operator reads in a source's log of the replicas that it served: a line for each."""

from __future__ import annotations

import logging
import re

import pytest
from tests.loader.support import (
    OnSend,
    TamperedBackend,
    calling,
    candidate,
    cut_after,
    equal,
    offer_of,
    pull_into,
    serving,
    toy_weights,
    until,
)

from netloader.errors import NoSourceLeft
from netloader.protocol import messages
from netloader.source.service import Source

WEIGHTS = toy_weights(1, rows=8000)

LINE = re.compile(
    r"served toy to 'replica' by memory: (?P<amount>[\d.]+ \wiB) in (?P<seconds>[\d.]+) s "
    r"\([\d.]+ GB/s\)(?:, then (?P<end>.*))?"
)


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [
        one
        for one in caplog.records
        if one.name == "netloader.source.dispatch" and one.levelno >= logging.INFO
    ]


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "netloader.source")


def ended(source: Source, caplog: pytest.LogCaptureFixture) -> tuple[str, re.Match[str]]:
    """The level of the one line, and what it says."""
    until(lambda: source.sessions == 0 and lines(caplog))
    (one,) = lines(caplog)
    said = LINE.fullmatch(one.getMessage())
    assert said is not None, one.getMessage()
    return one.levelname, said


def test_a_replica_that_got_everything(caplog: pytest.LogCaptureFixture) -> None:
    replica = toy_weights(rows=8000)
    with serving(offer_of(WEIGHTS)) as source:
        pull_into(replica).run(lambda: (candidate(source),))
        level, said = ended(source, caplog)
    assert equal(replica, WEIGHTS)
    assert (level, said["end"]) == ("INFO", None)
    assert float(said["amount"].split()[0]) > 0


@pytest.mark.parametrize("fault", [cut_after(0), cut_after(3)])
def test_a_replica_whose_transfer_broke(fault: OnSend, caplog: pytest.LogCaptureFixture) -> None:
    with serving(offer_of(WEIGHTS, backend=TamperedBackend(fault))) as source:
        with pytest.raises(NoSourceLeft):
            pull_into(toy_weights(rows=8000)).run(lambda: (candidate(source),))
        level, said = ended(source, caplog)
    assert (level, said["end"]) == ("WARNING", "it failed: cut")


def test_a_replica_that_gave_up(caplog: pytest.LogCaptureFixture) -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        accept = caller.accepted(WEIGHTS)
        caller.send(messages.Bye(session=accept.session, reason="others\nare faster"))
        until(lambda: source.sessions == 0 and lines(caplog))
        (one,) = lines(caplog)
    assert one.levelname == "INFO"
    said = one.getMessage()
    assert said.startswith("served toy to 'caller' by ")
    assert said.endswith(r"then it was ended: the replica gave up: 'others\nare faster'")
    # What a replica says makes no line of its own.
    assert "\n" not in said
