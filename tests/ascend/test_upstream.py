"""vLLM Ascend's own Netloader, unmodified, and ours: each pulls from the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.ascend.llama import storage_digests
from tests.ascend.ours import ND, NZ, starting
from tests.ascend.processes import START_S, Process
from tests.e2e.models import make_llama
from tests.free_ports import free_port

pytestmark = pytest.mark.timeout(900)

THEIRS = {
    "VLLM_PLUGINS": "a_fakecann,ascend,ascend_kv_connector,ascend_model,ascend_model_loader,"
    "ascend_service_profiling"
}
"""All plugins except ours."""


def test_a_chain_of_ours_theirs_and_ours(tmp_path: Path) -> None:
    """Their worker pulls from our source, and our worker from theirs. Two convert to NZ."""
    model = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    wanted = storage_digests(model)
    weights, hidden = model / "model.safetensors", model / "hidden"
    port = free_port()
    with ExitStack() as stack:
        source = stack.enter_context(
            starting(tmp_path, "source", model, env=NZ, extra={"UPSTREAM": "serve"})
        )
        settings = {
            "SOURCE": [{"device_id": 0, "sources": [source.endpoint]}],
            "LISTEN_PORT": port,
        }
        theirs = stack.enter_context(
            Process(
                "tests.ascend.npu_worker",
                tmp_path,
                "theirs",
                env=THEIRS | NZ,
                model=str(model),
                load_format="netloader",
                port=free_port(),
                extra=settings,
            )
        )
        theirs.say(do="init_device")
        listed = f"127.0.0.1:{port}"
        replica = stack.enter_context(
            starting(tmp_path, "replica", model, env=ND, source=listed, extra={"UPSTREAM": "pull"})
        )
        assert source.load()["not_a_source"] == ""
        weights.rename(hidden)
        theirs.answer(START_S)
        theirs.ask("load_model", timeout_s=START_S)
        assert "ModelNetLoaderElastic" in theirs.output()
        assert theirs.ask("digests") == wanted
        assert "FRACTAL_NZ" in theirs.ask("formats")
        # Ours compares a sample of what it gets with its files.
        hidden.rename(weights)
        report = replica.load()
        assert report["origin"] == "peers", report
        assert [(one["endpoint"], one["transport"]) for one in report["deliveries"]] == [
            (listed, "upstream")
        ]
        assert "only a sample of them was compared" in report["not_a_source"]
        assert replica.parameters() == wanted
        assert source.parameters() == wanted
        assert theirs.is_alive()


MEBIBYTE = 1 << 20

SILENT = {"FAKECANN_PEER_DEATH": "silence", "HCCL_EXEC_TIMEOUT": "600"}
"""HCCL reports nothing when the other end dies."""


@contextmanager
def end(home: Path, name: str, seed: int, env: Mapping[str, str] = SILENT) -> Iterator[Process]:
    """A process with a small model on a device, and both Netloaders' classes to move it."""
    given = THEIRS | dict(env)
    with Process("tests.ascend.upstream_end", home, name, env=given, seed=seed) as process:
        yield process


Pair = tuple[Process, Process]


@contextmanager
def pair(home: Path, env: Mapping[str, str] = SILENT) -> Iterator[Pair]:
    """A source and a replica with other bytes."""
    with end(home, "source", 1, env) as source, end(home, "replica", 2, env) as replica:
        for one in (source, replica):
            one.say(do="digests")
        before = [one.answer(START_S) for one in (source, replica)]
        assert before[0] != before[1]
        yield source, replica


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """For all tests below: a start takes most of their time."""
    with pair(tmp_path_factory.mktemp("ends")) as made:
        yield made


@pytest.mark.parametrize("draft", [False, True], ids=["target", "draft"])
@pytest.mark.parametrize("serves", ["ours", "theirs"])
def test_every_byte_arrives(ends: Pair, serves: str, draft: bool) -> None:
    source, replica = ends
    pulls = "theirs" if serves == "ours" else "ours"
    source.ask("fill", seed=10 + draft)
    replica.ask("fill", seed=20)
    port = source.ask(f"serve_{serves}", draft=draft)
    assert replica.ask(f"pull_{pulls}", port=port, draft=draft) == ""
    assert replica.ask("digests") == source.ask("digests")


def test_a_replica_of_another_model_goes_on_at_once(ends: Pair) -> None:
    source, replica = ends
    port = source.ask("serve_ours", draft=False)
    before = replica.ask("digests")
    assert replica.ask("pull_theirs", port=port, draft=False, model_path="/other") == "nothing"
    assert replica.ask("digests") == before
    assert "the model here is /models/m" in replica.output()


@pytest.mark.parametrize("has_key", [False, True])
def test_without_upstream_a_replica_goes_on_at_once(ends: Pair, has_key: bool) -> None:
    """Their client cannot read ZeroMQ's greeting, and a source with a door refuses in words."""
    source, replica = ends
    for door in (False, True):
        port = source.ask("listen_without", door=door, has_key=has_key)
        assert replica.ask("pull_theirs", port=port, draft=False) == "nothing"
    assert "set UPSTREAM to serve at this source" in replica.output()


def test_asking_who_is_there_leaves_their_server_as_it_was(ends: Pair) -> None:
    source, replica = ends
    port = source.ask("serve_theirs", draft=False)
    for _ in range(3):
        assert replica.ask("look", port=port) == "UPSTREAM"
    assert replica.ask("pull_ours", port=port, draft=False) == ""


def test_zeromqs_greeting_ends_their_server(ends: Pair) -> None:
    """Why the test before this one asks in their words."""
    source, replica = ends
    port = source.ask("serve_theirs", draft=False)
    replica.ask("greet_as_zeromq", port=port)
    assert replica.ask("look", port=port, patience_s=2.0) == "nobody"
    assert "UnicodeDecodeError" in source.output()


def survives_a_death(home: Path, ends: Pair, serves: str, env: Mapping[str, str]) -> None:
    """Their process is killed in the middle. Ours lives, and moves the model with the next one."""
    source, replica = ends
    source.ask("fill", seed=30)
    replica.ask("fill", seed=40)
    fault = "FAKECANN_KILL_AT_RECEIVED" if serves == "ours" else "FAKECANN_KILL_AT_SENT"
    with end(home, "dies", 7, dict(env) | {fault: str(3 * MEBIBYTE)}) as dies:
        dies.ask("digests", timeout_s=START_S)
        if serves == "ours":
            port = source.ask("serve_ours", draft=False)
            dies.say(do="pull_theirs", port=port, draft=False)
            assert dies.status() == -9
            # Another one comes in its place.
            assert replica.ask("pull_theirs", port=port, draft=False) == ""
        else:
            port = dies.ask("serve_theirs", draft=False)
            assert replica.ask("pull_ours", port=port, draft=False) != ""
            assert dies.status() == -9
            port = source.ask("serve_theirs", draft=False)
            assert replica.ask("pull_ours", port=port, draft=False) == ""
    assert replica.ask("digests") == source.ask("digests")
    assert (source if serves == "ours" else replica).ask("synchronize") is None


@pytest.mark.parametrize("serves", ["ours", "theirs"])
def test_an_end_that_dies_in_silence_ends_nobody(tmp_path: Path, ends: Pair, serves: str) -> None:
    survives_a_death(tmp_path, ends, serves, SILENT)


def test_an_end_whose_death_is_told_ends_nobody(tmp_path: Path) -> None:
    with pair(tmp_path, env={}) as made:
        for serves in ("ours", "theirs"):
            survives_a_death(tmp_path, made, serves, {})


def test_upstreams_own_replica_does_not_survive_that(tmp_path: Path) -> None:
    """The same death between their two ends: what ours is measured by."""
    with (
        end(tmp_path, "source", 1, {"FAKECANN_KILL_AT_SENT": str(3 * MEBIBYTE)}) as source,
        end(tmp_path, "replica", 2, {}) as replica,
    ):
        port = source.ask("serve_theirs", draft=False, timeout_s=START_S)
        replica.say(do="pull_theirs", port=port, draft=False)
        assert source.status(START_S) == -9
        # It may have its answer before the watchdog looks.
        assert replica.status() == -6
