"""What an error means for the stream that it ends."""

from __future__ import annotations

from typing import get_args

import pytest

from netloader.errors import ProtocolError, Refused, SourceLost, TransferError
from netloader.replica import outcome
from netloader.replica.connection import Break, Broken
from netloader.replica.outcome import AskLater, Declined, Faulty, Lost, Outcome


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Refused("a:1", "busy", 2.0), AskLater("refused: busy", 2.0)),
        (Refused("a:1", "busy", 0.0), AskLater("refused: busy", 0.0)),
        (Refused("a:1", "another identity", None), Declined("refused: another identity")),
        (SourceLost("a:1", "silent for 3 s"), Lost("silent for 3 s")),
        (Broken("a:1", Break.CLOSED), Lost("the source closed the connection")),
        (TransferError("a:1", str(ProtocolError("no JSON"))), Faulty("no JSON")),
    ],
)
def test_every_error_of_a_transfer_is_an_outcome(error: TransferError, expected: Outcome) -> None:
    assert outcome.of(error) == expected


def test_the_list_in_the_docstring_is_what_there_is() -> None:
    listed = [
        line.split()[0] for line in (outcome.__doc__ or "").splitlines() if line[:4] == "    "
    ]
    assert listed == [kind.__name__ for kind in get_args(Outcome)]
