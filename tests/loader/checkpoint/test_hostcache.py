from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fastest import HANG_S

from netloader.checkpoint.hostcache import HostCache

KEY = "0123456789abcdef" * 4
OTHER = "f" * 64
NAME = "evidence-" + KEY[:32]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Computed:
    """Counts how often it is asked for a value."""

    def __init__(self, value: str = "value") -> None:
        self.value = value
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        return self.value


def failing() -> str:
    raise AssertionError("computed although it was known")


def test_second_worker_is_told_what_the_first_found(folder: Path) -> None:
    assert HostCache(folder).remembered(KEY, Computed()) == "value"
    assert HostCache(folder).remembered(KEY, failing) == "value"


def test_another_key_is_another_question(folder: Path) -> None:
    HostCache(folder).remembered(KEY, Computed())
    assert HostCache(folder).remembered(OTHER, Computed("other")) == "other"
    # One file, another key.
    assert HostCache(folder).remembered(KEY[:32] + "0" * 32, Computed("third")) == "third"


def test_folder_and_entries_are_this_users_alone(folder: Path) -> None:
    HostCache(folder).remembered(KEY, Computed())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_failure_is_not_remembered(folder: Path) -> None:
    def broken() -> str:
        raise ValueError("cannot be read")

    with pytest.raises(ValueError, match="cannot be read"):
        HostCache(folder).remembered(KEY, broken)
    assert HostCache(folder).remembered(KEY, Computed()) == "value"


def test_what_may_still_change_unseen_is_not_remembered(folder: Path) -> None:
    cache = HostCache(folder, clock=lambda: 1000.0)
    for changed_s in (998.5, 1000.0, 5000.0):
        computed = Computed()
        for _ in range(2):
            cache.remembered(KEY, computed, newest_ns=int(changed_s * 1e9))
        assert computed.times == 2
    cache.remembered(KEY, Computed(), newest_ns=int(997.5e9))
    assert cache.remembered(KEY, failing, newest_ns=int(997.5e9)) == "value"


# Several at once.


def test_of_two_that_ask_at_once_one_computes_and_the_other_waits(folder: Path) -> None:
    other_waits = threading.Event()
    begun = threading.Event()
    found = []

    def slow() -> str:
        begun.set()
        assert other_waits.wait(HANG_S)
        return "slow"

    first = threading.Thread(
        target=lambda: found.append(HostCache(folder).remembered(KEY, slow)), daemon=True
    )
    first.start()
    assert begun.wait(HANG_S)
    found.append(HostCache(folder).remembered(KEY, failing, waiting=other_waits.set))
    first.join(timeout=HANG_S)
    assert found == ["slow", "slow"]


def holding(folder: Path, act: Callable[[], None]) -> None:
    """Do something while another computes what KEY stands for."""

    def compute() -> str:
        act()
        return "theirs"

    HostCache(folder).remembered(KEY, compute)


def test_who_has_waited_long_enough_computes(folder: Path) -> None:
    found: list[str] = []
    holding(
        folder,
        lambda: found.append(HostCache(folder, wait_s=0).remembered(KEY, Computed("mine"))),
    )
    assert found == ["mine"]
    assert HostCache(folder).remembered(KEY, failing) == "theirs"


def test_waiting_can_be_ended(folder: Path) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    def ask() -> None:
        with pytest.raises(Stop):
            HostCache(folder).remembered(KEY, failing, waiting=stop)

    holding(folder, ask)


def test_another_key_does_not_wait(folder: Path) -> None:
    found: list[str] = []

    def ask() -> None:
        found.append(HostCache(folder).remembered(OTHER, Computed("mine"), waiting=failing))

    holding(folder, ask)
    assert found == ["mine"]


@pytest.mark.slow
def test_process_that_is_killed_over_its_work_holds_nobody_up(folder: Path) -> None:
    """Slow: a process must start."""
    code = (
        "import sys, time, pathlib; from netloader.checkpoint.hostcache import HostCache\n"
        "def compute():\n    print('begun', flush=True)\n    time.sleep(60)\n"
        f"HostCache(pathlib.Path(sys.argv[1])).remembered({KEY!r}, compute)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        killed: list[object] = []

        def kill_once() -> None:
            if not killed:
                process.kill()
                killed.append(process.wait(HANG_S))

        assert HostCache(folder).remembered(KEY, Computed(), waiting=kill_once) == "value"
        assert killed
    finally:
        process.kill()
        process.wait(HANG_S)
        process.stdout.close()


# Whatever is wrong with the folder, there is a result.


def entry(folder: Path) -> Path:
    """A valid entry for KEY."""
    HostCache(folder).remembered(KEY, Computed())
    return folder / NAME


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


def begun(path: Path) -> None:
    os.truncate(path, 5)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def flipped(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"value":"value"', b'"value":"other"'))


@pytest.mark.parametrize("tear", [cut, begun, emptied, flipped])
def test_torn_entry_is_written_anew(folder: Path, tear: Callable[[Path], None]) -> None:
    tear(entry(folder))
    assert HostCache(folder).remembered(KEY, Computed("anew")) == "anew"
    assert HostCache(folder).remembered(KEY, failing) == "anew"


@pytest.mark.parametrize("data", [b'{"my": "notes"}', b"x" * 100_000, b"\0" * 100])
def test_file_of_somebody_elses_making_is_left_alone(folder: Path, data: bytes) -> None:
    path = entry(folder)
    path.write_bytes(data)
    for at in range(5):
        HostCache(folder, entries=1).remembered(f"{at}" * 64, Computed())
    assert HostCache(folder).remembered(KEY, Computed("mine")) == "mine"
    assert path.read_bytes() == data


def open_to_others(path: Path) -> None:
    path.chmod(0o644)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def hard_linked(path: Path) -> None:
    path.with_name("elsewhere").hardlink_to(path)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


@pytest.mark.parametrize("twist", [open_to_others, linked, hard_linked, a_pipe, a_folder])
def test_entry_that_others_could_have_written_is_not_believed(
    folder: Path, twist: Callable[[Path], None]
) -> None:
    path = entry(folder)
    twist(path)
    assert HostCache(folder).remembered(KEY, Computed("mine")) == "mine"
    assert os.path.lexists(path)


def test_folder_that_is_open_to_others_is_not_used(folder: Path) -> None:
    entry(folder)
    folder.chmod(0o755)
    assert HostCache(folder).remembered(KEY, Computed("mine")) == "mine"
    folder.chmod(0o700)
    assert HostCache(folder).remembered(KEY, failing) == "value"


def test_folder_that_is_a_link_or_no_folder_is_not_used(folder: Path) -> None:
    entry(folder)
    link, file = folder.with_name("link"), folder.with_name("file")
    link.symlink_to(folder)
    file.write_text("mine")
    for path in (link, file, file / "below"):
        assert HostCache(path).remembered(KEY, Computed("mine")) == "mine"
    assert file.read_text() == "mine"


def test_value_too_large_for_an_entry_is_not_remembered(folder: Path) -> None:
    large = Computed("x" * 5000)
    for _ in range(2):
        assert HostCache(folder).remembered(KEY, large) == "x" * 5000
    assert large.times == 2


def test_oldest_entries_go_and_nothing_else(folder: Path) -> None:
    cache = HostCache(folder, entries=3)
    keys = [f"{at:064}" for at in range(6)]
    keys = [key[::-1] for key in keys]
    for at, key in enumerate(keys):
        cache.remembered(key, Computed())
        os.utime(folder / f"evidence-{key[:32]}", ns=(at, at))
        (folder / f"mine-{at}").write_text("mine")
        (folder / f"evidence-{at}").write_text("mine as well")
    left = {path.name for path in folder.iterdir()}
    assert {f"evidence-{key[:32]}" for key in keys} & left == {
        f"evidence-{key[:32]}" for key in keys[3:]
    }
    assert len(left) == 3 + 12


def test_entry_somebody_is_at_work_on_is_not_swept(folder: Path) -> None:
    def crowd() -> None:
        os.utime(folder / NAME, ns=(1, 1))
        HostCache(folder, entries=1).remembered(OTHER, Computed())

    holding(folder, crowd)
    assert HostCache(folder).remembered(KEY, failing) == "theirs"


def test_the_latest_note_replaces_the_one_before(folder: Path) -> None:
    assert HostCache(folder).noted(KEY) is None
    assert not (folder / NAME).exists()
    HostCache(folder).note(KEY, "first, and longer")
    HostCache(folder).note(KEY, "second")
    assert HostCache(folder).noted(KEY) == "second"
    assert HostCache(folder).noted(KEY[:32] + "0" * 32) is None


def test_a_note_that_is_being_written_is_not_waited_for(folder: Path) -> None:
    HostCache(folder).note(KEY, "before")
    with (folder / NAME).open() as entry:
        fcntl.flock(entry, fcntl.LOCK_EX)
        HostCache(folder).note(KEY, "after")
    assert HostCache(folder).noted(KEY) == "before"


def test_a_torn_note_is_none(folder: Path) -> None:
    HostCache(folder).note(KEY, "value")
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content[:-3])
    assert HostCache(folder).noted(KEY) is None
