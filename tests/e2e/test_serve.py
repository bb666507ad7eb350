"""One worker a server: who takes weights from whom, on real `vllm serve` processes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.processes import isolated_environment
from tests.e2e.servers import SMALL_CHUNKS, Server, killed_once, scrape
from tests.free_ports import free_port
from tests.loader.metrics.naming import complaints

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT = "The mesh knows who is alive"


@dataclass(frozen=True)
class Fleet:
    """Servers that are up together. The others start at the same time, when the first is ready."""

    first: Server
    """Finds nobody. Its processes share a folder for metrics."""
    alone: tuple[dict[str, object], ...]
    """What `mesh-inspect` said while it was the only one."""
    second: Server
    """Started like the first. Its metrics have a port of their own."""
    metrics_port: int
    static: Server
    """Knows the first from a list, and has the mesh off. Its log has warnings only."""
    impostor: Server
    """Same name, other weights; asks the first both ways."""
    doomed: Server
    """Started like the first. Ends by SIGKILL in the middle of serving, once `armed` exists."""
    armed: Path


@pytest.fixture(scope="module")
def fleet(models: Path, home: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:

        def serve(
            name: str,
            model: str = "one",
            extra: dict[str, object] | None = None,
            **env: str,
        ) -> Server:
            server = Server(
                name,
                models / model,
                home,
                report=True,
                extra=extra,
                env=SMALL_CHUNKS | env,
                # The first is started as a shell would. That is enough: the others do the same.
                forked=name != "first",
            )
            return stack.enter_context(server)

        shared, metrics_port = home / "prometheus", free_port()
        shared.mkdir()
        first = serve("first", PROMETHEUS_MULTIPROC_DIR=str(shared)).wait_ready()
        source = [{"device_id": 0, "sources": [first.report()["endpoint"]]}]
        alone = tuple(inspect(home))
        prefix = str(home / "static.")
        armed = home / "armed"
        others = (
            serve("second", NETLOADER_METRICS_PORT=str(metrics_port)),
            serve(
                "static",
                extra={"MESH": False, "SOURCE": source, "OUTPUT_PREFIX": prefix},
                VLLM_LOGGING_LEVEL="WARNING",
            ),
            serve("impostor", "two", {"MODEL": str(models / "one"), "SOURCE": source}),
            serve("doomed", **killed_once(armed)),
        )
        second, *rest = (server.wait_ready() for server in others)
        yield Fleet(first, alone, second, metrics_port, *rest, armed)


def inspect(home: Path) -> list[dict[str, object]]:
    """What `mesh-inspect` says of the mesh."""
    answer = subprocess.run(
        ["mesh-inspect", "-o", "json"],
        env=isolated_environment(home),
        capture_output=True,
        check=True,
        timeout=30,
    )
    members: list[dict[str, object]] = json.loads(answer.stdout)["members"]
    return members


def test_a_server_without_peers_loads_from_storage_and_becomes_a_source(fleet: Fleet) -> None:
    report = fleet.first.report()

    assert report["origin"] == "storage"
    assert report["deliveries"] == []
    (member,) = fleet.alone
    assert member["ready"] is True
    assert member["endpoint"] == report["endpoint"]
    assert member["bytes"] == report["nbytes"]


def test_a_second_server_takes_its_weights_from_the_first(fleet: Fleet, home: Path) -> None:
    mine, theirs = fleet.second.report(), fleet.first.report()

    assert mine["origin"] == "peers"
    delivered = fleet.second.delivered()
    # `doomed` starts at the same time: if it was ready first, it helped.
    assert str(theirs["endpoint"]) in delivered
    assert delivered.keys() <= {theirs["endpoint"], fleet.doomed.report()["endpoint"]}
    assert sum(delivered.values()) == theirs["nbytes"]
    assert mine["tensors"] == theirs["tensors"] != {}
    text = fleet.first.complete(PROMPT)
    assert text
    assert fleet.second.complete(PROMPT) == text
    members = {member["endpoint"]: member for member in inspect(home)}
    here, there = members[mine["endpoint"]], members[theirs["endpoint"]]
    assert here["ready"] is there["ready"] is True
    assert here["identity"] == there["identity"]


def test_a_static_source_works_with_the_mesh_off(fleet: Fleet, home: Path) -> None:
    report = fleet.static.report()

    assert report["origin"] == "peers"
    assert list(fleet.static.delivered()) == [fleet.first.report()["endpoint"]]
    assert report["tensors"] == fleet.first.report()["tensors"]
    assert (home / "static.0.txt").read_text() == report["endpoint"]
    assert fleet.static.complete(PROMPT) == fleet.first.complete(PROMPT)
    assert report["endpoint"] not in {member["endpoint"] for member in inspect(home)}


def test_equal_names_with_other_weights_are_refused(fleet: Fleet) -> None:
    """Both ways of asking: the mesh rules the peer out, a static source refuses by itself."""
    report = fleet.impostor.report()

    assert report["origin"] == "storage"
    assert report["deliveries"] == []
    skipped = report["skipped"]
    assert isinstance(skipped, list)
    by_mesh = [reason for reason in skipped if reason.startswith("mesh: ")]
    by_source = [reason for reason in skipped if reason.startswith("SOURCE: ")]
    # Others of the fleet may still be loading, and are named for that.
    assert any("checkpoint content (sample): mine" in reason for reason in by_mesh), by_mesh
    assert "refused: checkpoint content (sample): mine" in by_source[0]
    mine, theirs = fleet.impostor.sha256(), fleet.first.sha256()
    assert (
        mine["model.layers.0.mlp.down_proj.weight"]
        != (theirs["model.layers.0.mlp.down_proj.weight"])
    )
    assert fleet.impostor.complete(PROMPT) != fleet.first.complete(PROMPT)


def test_log_lines_of_ours_are_where_vllms_are_and_as_they_are(fleet: Fleet) -> None:
    """The engine is in the server's own process: vLLM sets its handlers up after our plugin."""
    for server in (fleet.first, fleet.second):
        for words in ("is a member of 'default'", "ready to serve"):
            (line,) = server.lines(words)
            assert re.search(r"INFO \d\d-\d\d \d\d:\d\d:\d\d \[\w+\.py:\d+\] ", line), line
    (pulled,) = fleet.second.lines("] pulled ")
    assert str(fleet.first.report()["endpoint"]) in pulled
    # Progress is shown where vLLM's own bars are, and as they are: in lines of their own.
    assert fleet.first.lines("Loading safetensors checkpoint shards: 100% Completed | ")
    (bar,) = fleet.second.lines("Pulling weights from peers: 100% Completed | ")
    assert re.search(r"(^|\) )Pulling.* \[\d\d:\d\d<00:00, .+B/s, \d sources?\]$", bar), bar
    assert any(re.search(r"served .* to '127", line) for line in fleet.first.lines("] served "))
    assert fleet.static.report()["endpoint"]
    assert fleet.static.lines("] pulled ") == fleet.static.lines("ready to serve") == []


def test_vllms_own_metrics_have_ours_where_processes_share_a_folder(fleet: Fleet) -> None:
    scraped = fleet.first.metrics()

    assert complaints(scraped) == {}
    assert "vllm:" in scraped
    found = samples(scraped)
    assert found["netloader_loads_total"] == 1
    # To the second, the static one and the doomed one, if that did not take all from the second.
    assert found["netloader_served_bytes_total"] >= int(str(fleet.first.report()["nbytes"]))
    assert found["netloader_mesh_members"] > 1
    assert "netloader_pull_duration_seconds_count" not in found


def test_a_worker_s_own_port_has_its_metrics(fleet: Fleet) -> None:
    scraped = scrape(fleet.metrics_port)

    assert complaints(scraped) == {}
    found = samples(scraped)
    assert found["netloader_pulls_started_total"] == found["netloader_pulls_finished_total"] == 1
    assert found["netloader_pulled_bytes_total"] == fleet.second.report()["nbytes"]
    assert "vllm:" not in scraped


def samples(scraped: str) -> dict[str, float]:
    """Sums over all labels, by name."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_a_fourth_server_pulls_from_three_of_which_one_is_killed(
    fleet: Fleet, models: Path, home: Path
) -> None:
    """Two real sources that stay and one that dies by SIGKILL while it sends."""
    sources = (fleet.first, fleet.second, fleet.doomed)
    endpoints = {str(server.report()["endpoint"]) for server in sources}
    doomed = str(fleet.doomed.report()["endpoint"])
    fleet.armed.touch()

    with Server(
        "fourth", models / "one", home, report=True, env=SMALL_CHUNKS, forked=True
    ) as fourth:
        fourth.wait_ready()
        report, delivered = fourth.report(), fourth.delivered()

        assert report["origin"] == "peers"
        assert delivered.keys() == endpoints
        assert all(delivered.values())
        assert sum(delivered.values()) == report["nbytes"]
        skipped = report["skipped"]
        assert isinstance(skipped, list)
        assert any(doomed in reason for reason in skipped)
        assert fourth.sha256() == fleet.first.sha256()
        assert fourth.complete(PROMPT) == fleet.first.complete(PROMPT)
    assert doomed not in {member["endpoint"] for member in inspect(home) if member["ready"]}
