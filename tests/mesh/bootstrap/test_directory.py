import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from netmesh.bootstrap import directory as module
from netmesh.bootstrap.address import Address
from netmesh.bootstrap.directory import HostDirectory, default_directory
from netmesh.errors import ConfigError

A = Address("127.0.0.1", 1001)
B = Address("127.0.0.1", 1002)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "netmesh"


def announced(path: Path, address: Address, mesh: str = "m") -> HostDirectory:
    directory = HostDirectory(path, mesh)
    directory.announce(address)
    return directory


def only_entry(path: Path) -> Path:
    (entry,) = path.glob("*.json")
    return entry


def test_members_of_one_mesh_see_each_other(path: Path) -> None:
    a, b = announced(path, A), announced(path, B)
    assert a.contacts() == [B]
    assert b.contacts() == [A]
    assert announced(path, A, "other").contacts() == []


def test_an_observer_creates_nothing(path: Path) -> None:
    assert HostDirectory(path, "m").contacts() == []
    assert not path.exists()


def test_withdrawn_entries_are_gone_and_stay_gone(path: Path) -> None:
    a, b = announced(path, A), announced(path, B)
    a.withdraw()
    a.announce(A)
    assert b.contacts() == []


def test_private_whatever_the_umask(path: Path) -> None:
    old = os.umask(0)
    try:
        announced(path, A)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o700
    assert only_entry(path).stat().st_mode & 0o777 == 0o600


def test_a_directory_others_can_enter_is_refused(path: Path) -> None:
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    with pytest.raises(ConfigError, match=r"open to others.*chmod 700"):
        announced(path, A)
    with pytest.raises(ConfigError):
        HostDirectory(path, "m").contacts()


def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="symbolic link"):
        announced(path, A)


def test_another_users_directory_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.mkdir(mode=0o700)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(ConfigError, match=f"owned by user {mine}"):
        announced(path, A)


def test_entries_of_dead_processes_are_swept(path: Path) -> None:
    a = announced(path, A)
    entry = orjson.loads(only_entry(path).read_bytes())
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, check=True, text=True)  # fmt: skip
    for name, changes in {
        "dead.json": {"pid": int(child.stdout)},
        "recycled.json": {"started": "1"},
    }.items():
        (path / name).write_bytes(orjson.dumps({**entry, "id": str(B), **changes}))
    assert a.contacts() == []
    assert only_entry(path).name not in ("dead.json", "recycled.json")


def test_other_containers_are_seen_while_they_touch_their_entries(path: Path) -> None:
    a = announced(path, A)
    entry = orjson.loads(only_entry(path).read_bytes())
    foreign = path / "foreign.json"
    remote = {"id": "10.0.0.2:5", "pid": 1, "pid_namespace": "x", "net_namespace": "y"}
    foreign.write_bytes(orjson.dumps({**entry, **remote}))
    assert a.contacts() == [Address("10.0.0.2", 5)]
    os.utime(foreign, (1, 1))
    assert a.contacts() == []
    assert not foreign.exists()
    # Their loopback is not ours.
    foreign.write_bytes(orjson.dumps({**entry, **remote, "id": str(B)}))
    assert a.contacts() == []


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"null", b"\xff", b'{"id": 5}', b"[" * 1000, b"x" * 5000,
     b'{"id":"0.0.0.0:1","mesh":"m","pid":1,"started":"","pid_namespace":"","net_namespace":""}'],
)  # fmt: skip
def test_rubbish_is_swept(path: Path, content: bytes) -> None:
    a = announced(path, A)
    (path / "rubbish.json").write_bytes(content)
    assert a.contacts() == []
    assert not (path / "rubbish.json").exists()


def test_reading_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = announced(path, A)
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    for number in range(10):
        (path / f"zz{number}.json").write_bytes(b"rubbish")
    a.contacts()
    assert len(list(path.glob("zz*"))) == 8  # its own entry was the first of the three


def test_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    name = f"netmesh-{os.geteuid()}"
    assert default_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / name
    assert default_directory({}) == Path("/tmp") / name
    assert default_directory({"XDG_RUNTIME_DIR": "/does/not/exist"}) == Path("/tmp") / name
