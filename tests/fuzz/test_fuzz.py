"""A second of each target in every test run; docs/evidence/fuzzing.md has the long ones."""

import importlib.util
import json
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from netmesh.core.messages import Gossip
from netmesh.core.wire import MAX_BODY_BYTES
from netmesh.errors import RemoteProtocolError

from .campaign import Campaign, read_counts
from .mutate import mutate_json
from .seeds import MESH
from .target import Target
from .targets import CODEC, CUT, HEAD, TARGETS, framed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_seed_is_accepted(target: Target) -> None:
    whole = [seed for seed in target.seeds if target.name != "wire" or seed[0] != CUT]
    assert whole and all(target.check(seed) for seed in whole)


def test_there_is_a_seed_of_every_message_kind() -> None:
    assert sorted({message.kind for message in MESH}) == list(range(1, 15))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_changed_seeds_are_accepted_or_refused(target: Target, tmp_path: Path) -> None:
    """Without coverage, so that it runs everywhere."""
    rng = random.Random(1)
    campaign = Campaign(target, tmp_path / "counts")
    runs = 100 if target.name == "engine" else 1000
    for _ in range(runs):
        data = rng.choice(target.seeds)
        if rng.random() < 0.5:
            changed = bytearray(data)
            changed[rng.randrange(len(changed))] = rng.randrange(256)
            data = bytes(changed)
        else:
            data = data[: target.head] + (mutate_json(data[target.head :], rng) or b"")
        campaign.run(data)
    counts = read_counts(tmp_path / "counts")
    assert counts["runs"] == runs and counts["other_errors"] == 0
    assert counts["accepted"] + counts["refused"] == runs
    assert counts["accepted"] and counts["refused"]


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
@pytest.mark.parametrize("name", ["wire", pytest.param("control", marks=pytest.mark.soak)])
def test_the_coverage_guided_fuzzer_finds_nothing(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--runs", "1000", "--target", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(ran.stdout)
    assert result["runs"] >= 1000 and result["other_errors"] == 0
    assert result["accepted"] and result["refused"] and result["edges"]


def test_a_finding_is_counted_and_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(data: bytes) -> bool:
        return bool(data[0])

    campaign = Campaign(Target("broken", broken, (b"\1",), 0), tmp_path / "counts")
    for data in (b"\1", b"", b"\0"):
        campaign.run(data)
    counts = read_counts(tmp_path / "counts")
    assert (counts["accepted"], counts["refused"], counts["other_errors"]) == (1, 1, 1)
    assert "IndexError" in capsys.readouterr().err


def filled(before: bytes, item: bytes, after: bytes) -> bytes:
    """As many items between *before* and *after* as a body may hold."""
    count = (MAX_BODY_BYTES - len(before) - len(after)) // len(item)
    return before + (item * count)[:-1] + after


CLAIMS = b'{"from":"a:1","claims":['

LONGEST = {
    "empty lists": filled(CLAIMS, b"[],", b"]}"),
    "empty objects": filled(b'{"from":"a:1","x":[', b"{},", b"]}"),
    "claims": filled(CLAIMS, b'["a:1",1,0,0,1,{"a":1}],', b"]}"),
    "short claims": CLAIMS + b",".join([b'["a:1",1,0,0,1,{"a":1}]'] * 4096) + b"]}",
    "adverts": filled(CLAIMS, b'["a:1",1,0,0,1,{"a":[' + b"[]," * 2700 + b"0]}],", b"]}"),
    "floats": filled(CLAIMS, b'["a:1",1,0,0,1,{"a":[' + b"1e15," * 400 + b"0]}],", b"]}"),
    "one number": b'{"from":"a:1","x":' + b"9" * (MAX_BODY_BYTES - 20) + b"}",
    "escapes": filled(b'{"from":"a:1","x":"', b"\\u0041", b'"}'),
    "nesting": b"[" * MAX_BODY_BYTES,
}


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", LONGEST.values(), ids=LONGEST)
def test_the_longest_bodies_stay_within_bounds(body: bytes) -> None:
    def decode() -> None:
        try:
            CODEC.decode(framed(bytes((0, Gossip.kind)).ljust(HEAD, b"\0") + body))
        except RemoteProtocolError as error:
            assert len(str(error)) < 300  # it goes into a log

    started = time.process_time()
    decode()
    assert time.process_time() - started < 2.0  # 0.1 s on a free machine
    assert peak_bytes(decode) < 64 * 1024 * 1024


def test_json_changed_as_json_stays_json() -> None:
    rng = random.Random(2)
    text = orjson.dumps({"a": [1, {"b": [2, 3]}], "c": "d"})
    for _ in range(500):
        changed = mutate_json(text, rng)
        assert changed is not None
        orjson.loads(changed)
    assert mutate_json(b"not JSON", rng) is None
