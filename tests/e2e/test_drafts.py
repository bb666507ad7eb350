"""A draft model beside its target."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.hosts import Mesh
from tests.free_ports import DRAFT_DISTANCE, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class TestDrafts:
    def test_target_and_draft_come_from_a_static_source(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        """Upstream's ports: the draft's listener is 10000 above the target's."""
        port = free_port(DRAFT_DISTANCE)
        engine = {
            "speculative_config": {
                "method": "draft_model",
                "model": str(checkpoints / "two"),
                "num_speculative_tokens": 2,
            }
        }
        first = mesh.load(checkpoints / "one", {"LISTEN_PORT": port, "MESH": False}, **engine)
        source = [{"device_id": 0, "sources": [f"127.0.0.1:{port}"]}]

        second = mesh.load(checkpoints / "one", {"SOURCE": source, "MESH": False}, **engine)

        assert first.draft["endpoint"] == f"127.0.0.1:{port + 10000}"
        assert second.pulled_from(first), second.reasons
        assert second.draft["origin"] == "peers", second.draft["skipped"]
        assert [one["endpoint"] for one in second.draft["deliveries"]] == [first.draft["endpoint"]]
        assert second.draft["tensors"] == first.draft["tensors"] != {}

    def test_a_draft_of_the_same_content_is_no_target(self, mesh: Mesh, checkpoints: Path) -> None:
        engine = {
            "speculative_config": {
                "method": "draft_model",
                "model": str(checkpoints / "one"),
                "num_speculative_tokens": 2,
            }
        }
        target = mesh.load(checkpoints / "one")

        both = mesh.load(checkpoints / "one", **engine)
        again = mesh.load(checkpoints / "one", **engine)

        assert both.report["origin"] == "peers", both.reasons
        assert both.suppliers == [target.endpoint]
        assert both.draft["origin"] == "storage"
        assert both.draft["tensors"] == both.report["tensors"] == target.report["tensors"]
        assert again.pulled_from(target, both), again.reasons
        suppliers = {one["endpoint"] for one in again.draft["deliveries"]}
        assert suppliers == {both.draft["endpoint"]}
