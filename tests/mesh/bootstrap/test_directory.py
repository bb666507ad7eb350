import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from netmesh.address import Address
from netmesh.bootstrap.directory import (
    FOLDER,
    FOREIGN_TTL_S,
    MAX_ENTRIES,
    HostDirectory,
)
from netmesh.errors import SettingsError

from ..support import MESH_ROOT, another_users

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
    (entry,) = (path / FOLDER).glob("*.json")
    return entry


def tree(path: Path) -> dict[str, bytes | None]:
    """Every file below *path* and what it holds; None for what is no file."""
    return {
        str(one.relative_to(path)): one.read_bytes() if one.is_file() else None
        for one in path.rglob("*")
    }


def namespace(kind: str, boot: str | None = None) -> str:
    """A namespace of this process, as an entry names it; on the host with the boot id *boot*."""
    boot = boot or Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{Path(f'/proc/self/ns/{kind}').readlink()}@{boot}"


def entry_of(mesh: str, address: Address, **changes: object) -> tuple[str, bytes]:
    """Name and content of a well-formed entry of a process that is gone, as *changes* say
    otherwise."""
    values: dict[str, object] = {
        "version": 1,
        "id": str(address),
        "mesh": mesh,
        "pid": 1,
        "started": "never",
        "pid_namespace": namespace("pid"),
        "net_namespace": namespace("net"),
    } | changes
    tag = hashlib.blake2b(str(values["mesh"]).encode(), digest_size=6).hexdigest()
    place = hashlib.blake2b(str(values["net_namespace"]).encode(), digest_size=4).hexdigest()
    return f"{tag}-{values['pid']}-{address.port}-{place}.json", orjson.dumps(values)


def put(path: Path, name: str, content: bytes, age_s: float = 0) -> Path:
    """A file among the entries."""
    for folder in (path, path / FOLDER):
        folder.mkdir(mode=0o700, exist_ok=True)
    file = path / FOLDER / name
    file.write_bytes(content)
    touched = time.time() - age_s
    os.utime(file, (touched, touched))
    return file


def test_members_of_one_mesh_see_each_other(path: Path) -> None:
    a, b = announced(path, A), announced(path, B)
    assert a.contacts() == [B]
    assert b.contacts() == [A]
    assert announced(path, A, "other").contacts() == []


def test_an_entry_is_named_by_what_it_says_and_carries_its_version(path: Path) -> None:
    announced(path, A)
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    name, content = entry_of("m", A, pid=os.getpid(), started=start)
    assert only_entry(path).name == name
    assert orjson.loads(only_entry(path).read_bytes()) == orjson.loads(content)


def test_reading_makes_no_folder(path: Path) -> None:
    assert HostDirectory(path, "m").contacts() == []
    assert not path.exists()
    path.mkdir(mode=0o700)
    assert HostDirectory(path, "m").contacts() == []
    assert list(path.iterdir()) == []


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
    assert (path / FOLDER).stat().st_mode & 0o777 == 0o700
    assert only_entry(path).stat().st_mode & 0o777 == 0o600


def test_a_directory_others_can_enter_is_refused(path: Path) -> None:
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    with pytest.raises(SettingsError, match=r"open to others.*chmod 700"):
        announced(path, A)
    with pytest.raises(SettingsError):
        HostDirectory(path, "m").contacts()


def test_a_sub_folder_others_can_enter_is_refused(path: Path) -> None:
    announced(path, A)
    (path / FOLDER).chmod(0o755)
    with pytest.raises(SettingsError, match=rf"MESH_DIRECTORY='{path / FOLDER}'.*open to others"):
        announced(path, B)
    with pytest.raises(SettingsError):
        HostDirectory(path, "m").contacts()


def test_a_linked_sub_folder_is_refused(path: Path, tmp_path: Path) -> None:
    path.mkdir(mode=0o700)
    (tmp_path / "real").mkdir(mode=0o700)
    (path / FOLDER).symlink_to(tmp_path / "real")
    with pytest.raises(SettingsError, match="symbolic link"):
        announced(path, A)
    assert list((tmp_path / "real").iterdir()) == []


def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "real")
    with pytest.raises(SettingsError, match="symbolic link"):
        announced(path, A)


def test_another_users_directory_is_refused(path: Path) -> None:
    theirs, user = another_users(path)
    with pytest.raises(SettingsError, match=f"owned by user {user}"):
        announced(theirs, A)


def test_entries_of_dead_processes_are_swept_by_who_announces_itself(path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, check=True, text=True)  # fmt: skip
    dead = put(path, *entry_of("m", A, pid=int(child.stdout)))
    recycled = put(path, *entry_of("m", B, pid=os.getpid(), started="1"))
    of_another_mesh = put(path, *entry_of("other", A))
    own = announced(path, Address("127.0.0.1", 1003))
    assert own.contacts() == []
    assert not any(file.exists() for file in (dead, recycled, of_another_mesh))
    only_entry(path)


def test_a_round_of_a_member_sweeps_too(path: Path) -> None:
    member = announced(path, A)
    dead = put(path, *entry_of("m", B))
    assert member.contacts() == []
    assert dead.exists()
    member.announce(A)
    assert not dead.exists()


def test_who_did_not_announce_itself_removes_and_writes_nothing(path: Path) -> None:
    alive = announced(path, A)
    put(path, *entry_of("m", B))
    put(path, *entry_of("m", B, pid_namespace="another"), age_s=10_000)
    name, content = entry_of("m", B, pid=2)
    put(path, f".{name}.new", content, age_s=10_000)
    before = tree(path)
    observer = HostDirectory(path, "m")
    for _ in range(3):
        assert observer.contacts() == [A]
    observer.withdraw()
    assert tree(path) == before
    alive.withdraw()
    alive.announce(A)  # A member that has gone is an observer again.
    assert len(tree(path)) == len(before) - 1


def test_other_containers_are_seen_while_they_touch_their_entries(path: Path) -> None:
    a = announced(path, A)
    there = Address("10.0.0.2", 5)
    elsewhere = {"pid_namespace": "x", "net_namespace": "y"}
    foreign = put(path, *entry_of("m", there, **elsewhere))
    a.announce(A)
    assert a.contacts() == [there]
    os.utime(foreign, (1, 1))
    assert a.contacts() == []
    a.announce(A)
    assert not foreign.exists()
    # Their loopback is not ours.
    put(path, *entry_of("m", B, **elsewhere))
    assert a.contacts() == []


def on_another_host(kind: str) -> str:
    """The namespace of the same number on another host: the first ones of all kernels have it."""
    return namespace(kind, "6a4b2b4c-0000-4000-8000-000000000000")


def test_a_folder_shared_by_hosts_loses_no_entry_of_theirs(path: Path) -> None:
    there = Address("10.0.0.2", 1001)
    elsewhere = {
        "pid": os.getpid(),
        "pid_namespace": on_another_host("pid"),
        "net_namespace": on_another_host("net"),
    }
    theirs = put(path, *entry_of("m", there, **elsewhere))
    a = announced(path, Address("10.0.0.1", 1001))  # the same port, and the same process id
    assert theirs.exists() and len(list((path / FOLDER).glob("*.json"))) == 2
    assert a.contacts() == [there]
    a.withdraw()
    assert theirs.exists()
    put(path, *entry_of("m", B, **elsewhere))  # their loopback leads nowhere
    assert HostDirectory(path, "m").contacts() == [there]


def test_entries_without_a_boot_id_are_read_and_not_swept(path: Path) -> None:
    before = {
        "pid_namespace": str(Path("/proc/self/ns/pid").readlink()),
        "net_namespace": str(Path("/proc/self/ns/net").readlink()),
    }
    old = put(path, *entry_of("m", B, **before))
    a = announced(path, A)
    assert a.contacts() == [B]
    os.utime(old, (1, 1))  # whoever wrote it has not touched it for long
    a.announce(A)
    assert not old.exists()


def test_what_a_killed_writer_left_is_swept_once_it_is_old(path: Path) -> None:
    name, content = entry_of("m", B)
    old = put(path, f".{name}.new", content, age_s=FOREIGN_TTL_S + 60)
    name, content = entry_of("m", B, pid=2)
    young = put(path, f".{name}.new", content)
    announced(path, A)
    assert not old.exists()
    assert young.exists()


OLD_S = 10 * FOREIGN_TTL_S

FOREIGN_CONTENT = [
    b"", b"[]", b"{}", b"null", b"\xff", b'{"id": 5}', b"[" * 1000, b"x" * 5000,
    b'{"model_type": "llama", "version": 1}',
    entry_of("m", B)[1][:-1],  # torn
    entry_of("m", B)[1] + b" " * 3000,
    entry_of("m", B, version=2)[1],
    entry_of("m", B, version=2, transport="quic")[1],
    entry_of("m", B, version=True)[1],
    entry_of("m", B, version="1")[1],
    orjson.dumps({k: v for k, v in orjson.loads(entry_of("m", B)[1]).items() if k != "version"}),
    entry_of("m", B, pid="1")[1],
    entry_of("m", B, pid=2)[1],  # not what its name says
    entry_of("other", B)[1],
    entry_of("m", A)[1],
    entry_of("m", B, net_namespace="y")[1],
    entry_of("m", B, id="0.0.0.0:1002")[1],
    entry_of("m", B, id="name:1002")[1],
]  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN_CONTENT)
def test_a_file_of_our_name_with_other_content_is_left_alone(path: Path, content: bytes) -> None:
    name, ours = entry_of("m", B)
    put(path, name, content, age_s=OLD_S)
    put(path, f".{name}.new", content, age_s=OLD_S)
    before = tree(path)
    member = announced(path, A)
    for _ in range(3):
        member.announce(A)
        assert member.contacts() == []
    assert before.items() <= tree(path).items()
    put(path, name, ours)
    member.announce(A)
    assert not (path / FOLDER / name).exists()  # The name was not the reason.


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: "config.json",
        lambda name: f"a{name}",
        lambda name: name.upper(),
        lambda name: f"{name}.new",
        lambda name: f".{name}",
        lambda name: f"{name}\n",
        lambda name: name.replace(".json", ".jsonx"),
        lambda name: name.replace("-", "_"),
        lambda name: f"-{name}",
    ],
)
def test_an_entry_of_another_name_is_left_alone(path: Path, rename: Callable[[str], str]) -> None:
    name, content = entry_of("m", B)
    file = put(path, rename(name), content, age_s=OLD_S)
    member = announced(path, A)
    member.announce(A)
    assert member.contacts() == []
    assert file.read_bytes() == content


def test_what_is_no_plain_file_is_left_alone(path: Path, tmp_path: Path) -> None:
    name, content = entry_of("m", B)
    target = tmp_path / "target"
    target.write_bytes(content)
    put(path, "other", b"")
    (path / FOLDER / name).symlink_to(target)
    fifo = path / FOLDER / entry_of("m", B, pid=2)[0]
    os.mkfifo(fifo)
    folder = path / FOLDER / entry_of("m", B, pid=3)[0]
    folder.mkdir()
    member = announced(path, A)
    assert member.contacts() == []
    assert (path / FOLDER / name).is_symlink() and fifo.is_fifo() and folder.is_dir()


def test_other_peoples_files_beside_and_among_the_entries_stay(path: Path) -> None:
    path.mkdir(mode=0o700)
    name, content = entry_of("m", B)
    for other in ("config.json", "service-account.json", "big-model.index.json", name):
        (path / other).write_bytes(b'{"kept": true}')
        put(path, f"x-{other}", b'{"kept": true}', age_s=OLD_S)
    (path / entry_of("m", B, pid=2)[0]).write_bytes(content)  # beside the sub-folder
    before = tree(path)
    a, b = announced(path, A), announced(path, B)
    for _ in range(3):
        for member, address, other_address in ((a, A, B), (b, B, A)):
            member.announce(address)
            assert member.contacts() == [other_address]
    a.withdraw()
    b.withdraw()
    assert tree(path) == before


def test_one_round_looks_at_a_bounded_number_of_files(path: Path) -> None:
    for pid in range(1, MAX_ENTRIES + 11):
        put(path, *entry_of("other", A, pid=pid))
    put(path, *entry_of("m", B))
    member = announced(path, A)
    # Its own mesh's come first: two of the looks were for those.
    assert len(list((path / FOLDER).iterdir())) == 1 + 12
    member.announce(A)
    only_entry(path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from netmesh.address import Address
from netmesh.bootstrap.directory import HostDirectory
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    HostDirectory(Path(sys.argv[1]), "m").announce(Address("127.0.0.1", 1001))
except OSError as error:
    print(error)
"""
"""What a kernel without room does to a write: ten bytes of it are taken."""


def test_an_entry_that_cannot_be_written_leaves_nothing(path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        env={**os.environ, "PYTHONPATH": str(MESH_ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert "not written whole" in ended.stdout
    assert list((path / FOLDER).iterdir()) == []
