"""What goes wrong costs time, or stops the start with a reason; never weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.servers import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT = "The mesh knows who is alive"


def test_a_bad_setting_stops_the_start_and_says_why(models: Path, home: Path) -> None:
    extra: dict[str, object] = {"LISTEN_PORT": 80}
    with Server("bad", models / "one", home, extra=extra) as bad:
        assert bad.wait_ended() != 0
        assert "LISTEN_PORT=80 is not valid: an integer, 1024..65535" in bad.log.read_text()
