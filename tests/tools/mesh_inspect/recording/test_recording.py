"""A recording is what the mesh did, whatever ends the recorder, and whatever else a file holds."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import mesh_inspect
from mesh_inspect.recording.errors import BadLineError, RecordingError
from mesh_inspect.recording.lines import LineError, RecordingHead, head_line, step_line, step_of
from mesh_inspect.recording.reader import Recording, Tape
from mesh_inspect.recording.recorder import RecorderMeans, record
from mesh_inspect.recording.track import Track, TrackSettings
from mesh_inspect.recording.writer import RecordingFile, RecordingFull
from mesh_inspect.watching import Sight
from netmesh import Member, MemberId, NoMeshError, Status

from ..moving import MovingMesh
from ..support import holding, member

BEGIN = 1.79e9
HEAD = RecordingHead(mesh="m", at=BEGIN, program="test")
ONE = member(holding("org/a"), id="10.0.0.1:1")
TWO = member(holding("org/b"), id="10.0.0.2:1")
SCHEMA = json.loads(
    (Path(mesh_inspect.__file__).parent / "schema" / "recording-v1.json").read_text()
)

STEP = {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/step"}


def ageless(members: Iterable[Member]) -> dict[str, Member]:
    return {one.id: replace(one, age_s=0.0) for one in members}


def lines_of(looks: Sequence[Sequence[Member] | str], **settings: float) -> list[bytes]:
    """The file of a recorder that saw these, one a second; a text is silence."""
    track = Track(BEGIN, TrackSettings(**settings))
    written = [head_line(HEAD)]
    for second, look in enumerate(looks):
        at = BEGIN + second
        line = track.silent(at, look) if isinstance(look, str) else track.seen(at, look)
        if line is not None:
            written.append(line)
    return [*written, track.end(BEGIN + len(looks))]


def read(path: Path, lines: Iterable[bytes]) -> Recording:
    path.write_bytes(b"".join(lines))
    return Recording(path)


def test_every_look_is_found_again(tmp_path: Path) -> None:
    moving = MovingMesh(64, 16)
    looks = []
    for _ in range(60):
        looks.append(moving.members())
        moving.advance()
    recording = read(tmp_path / "r", lines_of(looks))
    assert (recording.begin, recording.to) == (BEGIN, BEGIN + 60)
    tape = Tape(recording)
    for second in [0, 1, 2, 30, 59, 58, 3, 40, 41, 0, 59]:
        moment = tape.wind(BEGIN + second + 0.5)
        assert ageless(moment.members) == ageless(looks[second]), second
        assert moment.silence is None
    tape.close()


def test_a_time_is_found_without_reading_what_is_before_its_keyframe(tmp_path: Path) -> None:
    moving = MovingMesh(24, 8)
    looks = []
    for _ in range(100):
        looks.append(moving.members())
        moving.advance()
    lines = lines_of(looks)
    whole = [number for number, line in enumerate(lines) if b'"whole":true' in line]
    assert len(whole) > 3
    path = tmp_path / "r"
    recording = read(path, lines)
    # What lies between the first keyframe and the last is spoiled after it was indexed.
    spoiled = [b" " * (len(line) - 1) + b"\n" for line in lines[whole[1] : whole[-1]]]
    path.write_bytes(b"".join([*lines[: whole[1]], *spoiled, *lines[whole[-1] :]]))
    tape = Tape(recording)
    assert ageless(tape.wind(recording.to).members) == ageless(looks[-1])
    assert ageless(tape.wind(recording.begin).members) == ageless(looks[0])
    with pytest.raises(BadLineError, match=f"line {whole[1] + 1} "):
        tape.wind(orjson.loads(lines[whole[1]])["at"])
    tape.close()


def test_keyframes_are_a_small_part_of_the_file() -> None:
    moving = MovingMesh(24, 8)
    looks = []
    for _ in range(150):
        looks.append(moving.members())
        moving.advance()
    lines = lines_of(looks)
    whole = sum(len(line) for line in lines if b'"whole":true' in line)
    assert whole < sum(map(len, lines)) / 4


def test_a_quiet_mesh_is_not_a_dead_recorder() -> None:
    lines = lines_of([[ONE]] * 200, beat_s=60.0)
    times = [orjson.loads(line)["at"] - BEGIN for line in lines[1:]]
    assert times == [0, 60, 120, 180, 200]


def test_age_alone_is_not_written() -> None:
    lines = lines_of([[ONE], [replace(ONE, age_s=300.0)], [replace(ONE, version=2)]])
    assert [len(orjson.loads(line)["members"]) for line in lines[1:]] == [1, 1, 0]


def test_silence_and_its_end_are_found_again(tmp_path: Path) -> None:
    looks: list[Sequence[Member] | str] = ["nobody", [ONE, TWO], "gone quiet", "gone quiet", [ONE]]
    recording = read(tmp_path / "r", lines_of(looks))
    tape = Tape(recording)
    told = [tape.wind(BEGIN + second) for second in range(5)]
    assert [one.silence for one in told] == ["nobody", None, "gone quiet", "gone quiet", None]
    assert [len(one.members) for one in told] == [0, 2, 2, 2, 1]
    tape.close()


def test_time_goes_only_forward(tmp_path: Path) -> None:
    track = Track(BEGIN)
    lines = [head_line(HEAD)]
    for at, version in ((BEGIN, 1), (BEGIN - 3600, 2), (BEGIN + 1, 3)):
        line = track.seen(at, [replace(ONE, version=version)])
        assert line is not None
        lines.append(line)
    recording = read(tmp_path / "r", lines)
    assert (recording.begin, recording.to) == (BEGIN, BEGIN + 1)


def test_a_killed_recorder_leaves_a_readable_file(tmp_path: Path) -> None:
    whole = b"".join(lines_of([[ONE], [ONE, TWO], [TWO]]))
    first = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    path = tmp_path / "r"
    for cut in range(first, len(whole), 7):
        path.write_bytes(whole[:cut])
        tape = Tape(Recording(path))
        assert tape.wind(BEGIN + 10).members
        tape.close()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "line 1 .*not JSON"),
        ([b"\x7fELF\0\0\n"], "line 1 .*not JSON"),
        ([b"{}\n"], "line 1 .*mesh"),
        ([head_line(HEAD).replace(b'"version":1', b'"version":2')], "line 1 .*version"),
        ([head_line(HEAD)], "holds no look"),
        ([head_line(HEAD), b'{"at":1790000000.0,"members":[]}\n'], "line 2 .*not whole"),
        ([head_line(HEAD), b'{"at":1.0,"whole":true}\n'], "line 2 .*time goes back"),
        ([head_line(HEAD), step_line(BEGIN, [ONE], whole=True), b"[]\n"], "line 3 "),
        ([head_line(HEAD), step_line(BEGIN, [ONE], whole=True), b"\n"], "line 3 .*not JSON"),
        (
            [
                head_line(HEAD),
                step_line(BEGIN, [replace(ONE, advert={"a": 1})], whole=True).replace(
                    b'{"a":1}', b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"
                ),
            ],
            "line 2 .*members.0.advert",
        ),
        (
            [head_line(HEAD), step_line(BEGIN, [replace(ONE, advert={"a": "b" * 70_000})])],
            "line 2 .*members.0.advert",
        ),
        (
            [head_line(HEAD), step_line(BEGIN, [ONE], whole=True).replace(b"alive", b"undead")],
            "line 2 .*members.0.status",
        ),
    ],
)
def test_garbage_is_refused_with_its_line(tmp_path: Path, lines: list[bytes], said: str) -> None:
    with pytest.raises(RecordingError, match=said):
        read(tmp_path / "r", lines)


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(RecordingError, match="plain file"):
            Recording(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
damage = st.dictionaries(
    st.sampled_from(["at", "whole", "members", "gone", "silence", "other"]), values
)
damaged = st.dictionaries(
    st.sampled_from(["id", "generation", "incarnation", "status", "version", "advert"]), values
)


@given(damage, damaged)
def test_a_line_is_a_step_or_an_error_and_the_schema_agrees(
    step: dict[str, object], one: dict[str, object]
) -> None:
    made = orjson.loads(step_line(BEGIN, [ONE]))
    made["members"][0] |= one
    made |= step
    try:
        text = orjson.dumps(made)
    except TypeError:
        return  # A number that no JSON reader of 64 bits can hold.
    try:
        step_of(text)
    except LineError:
        return
    Draft202012Validator(STEP).validate(orjson.loads(text))


def test_what_is_written_follows_the_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    line = Draft202012Validator(SCHEMA)
    moving = MovingMesh(16, 4)
    looks: list[Sequence[Member] | str] = []
    for _ in range(20):
        looks += [moving.members(), "nobody\x1b[2J"]
        moving.advance()
    for written in lines_of(looks):
        assert written.isascii() and b"\x1b" not in written
        line.validate(orjson.loads(written))


# The file.


def test_a_file_is_its_owners_and_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with RecordingFile(path, HEAD, 10**6, force=False):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(RecordingError, match="--force"):
        RecordingFile(path, HEAD, 10**6, force=False)
    path.chmod(0o644)
    with RecordingFile(path, HEAD, 10**6, force=True):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_overwritten_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    for force in (False, True):
        with pytest.raises(RecordingError):
            RecordingFile(link, HEAD, 10**6, force=force)
    assert target.read_text() == "precious" and link.is_symlink()


class Looks:
    """What a recorder sees, and a clock that only its waits move."""

    def __init__(self, *looks: Sequence[Member] | Exception) -> None:
        self.now = 0.0
        self._looks = list(looks)

    def look(self) -> Sight:
        shown = self._looks.pop(0)
        if isinstance(shown, Exception):
            raise shown
        return Sight(BEGIN + self.now, tuple(shown), ())

    def stopped(self, seconds: float) -> bool:
        assert seconds >= 0
        self.now += seconds
        return not self._looks

    @property
    def means(self) -> RecorderMeans:
        return RecorderMeans(self.look, lambda: self.now, lambda: BEGIN + self.now, self.stopped)


def test_a_recorder_starts_before_the_mesh_and_survives_its_silence(tmp_path: Path) -> None:
    nobody = NoMeshError("m", ("10.0.0.1:1",), 3.0)
    world = Looks(nobody, nobody, [ONE], [ONE, TWO], nobody)
    with RecordingFile(tmp_path / "r", HEAD, 10**6, force=False) as file:
        assert record(world.means, file, interval_s=2.0, for_s=None)
    recording = Recording(tmp_path / "r")
    tape = Tape(recording)
    silences = [tape.wind(BEGIN + at).silence is not None for at in (0, 2, 4, 6, 8)]
    assert silences == [True, True, False, False, True]
    assert len(tape.wind(BEGIN + 9).members) == 2 and recording.to == BEGIN + 10
    tape.close()


def test_a_recorder_ends_after_its_time(tmp_path: Path) -> None:
    world = Looks(*[[ONE]] * 10)
    with RecordingFile(tmp_path / "r", HEAD, 10**6, force=False) as file:
        assert record(world.means, file, interval_s=1.0, for_s=3.5)
    assert world.now == 3.5 and Recording(tmp_path / "r").to == BEGIN + 3.5


def test_a_full_file_ends_whole(tmp_path: Path) -> None:
    moving = MovingMesh(16, 4)
    looks = []
    for _ in range(200):
        looks.append(moving.members())
        moving.advance()
    path = tmp_path / "r"
    with RecordingFile(path, HEAD, 60_000, force=False) as file:
        assert not record(Looks(*looks).means, file, interval_s=1.0, for_s=None)
    assert 40_000 < path.stat().st_size <= 60_000
    assert Recording(path).to > BEGIN + 3
    with pytest.raises(RecordingFull):
        RecordingFile(tmp_path / "small", HEAD, 100, force=False)


def test_a_member_keeps_what_the_mesh_knew_of_it(tmp_path: Path) -> None:
    dead = replace(ONE, status=Status.DEAD, incarnation=7, version=9, id=MemberId("[fd00::1]:1"))
    tape = Tape(read(tmp_path / "r", lines_of([[dead]])))
    (found,) = tape.wind(BEGIN).members
    assert replace(found, age_s=dead.age_s) == dead
    tape.close()
