import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from netmesh.errors import SettingsError
from netmesh.private import private_directory, private_subdirectory, user_directory

from .support import MESH_ROOT, another_users

KEY = "SOME_DIRECTORY"


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def write(directory: int, name: str) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=directory))


def test_what_is_missing_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "outer"
    old = os.umask(0)
    try:
        with (
            private_directory(path, create=True, key=KEY) as outer,
            private_subdirectory(outer, "inner", create=True, key=KEY, within=path) as inner,
        ):
            write(inner, "file")
    finally:
        os.umask(old)
    assert (path / "inner" / "file").exists()
    assert path.stat().st_mode & 0o7777 == 0o700
    assert (path / "inner").stat().st_mode & 0o7777 == 0o700


def test_nothing_is_made_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "outer"
    with pytest.raises(FileNotFoundError), private_directory(path, create=False, key=KEY):
        pass
    assert not path.exists()
    path.mkdir(mode=0o700)
    with (
        private_directory(path, create=False, key=KEY) as outer,
        pytest.raises(FileNotFoundError),
        private_subdirectory(outer, "inner", create=False, key=KEY, within=path),
    ):
        pass
    assert list(path.iterdir()) == []


def make_open_to_others(path: Path) -> None:
    path.mkdir()
    path.chmod(0o710)


def make_link(path: Path) -> None:
    target = path.with_name("target")
    target.mkdir(mode=0o700)
    path.symlink_to(target)


def make_file(path: Path) -> None:
    path.touch(mode=0o600)


UNSAFE = [
    (make_open_to_others, r"open to others \(mode 0710\).*`chmod 700`"),
    (make_link, "symbolic link"),
    (make_file, "not a directory"),
]


@pytest.mark.parametrize(("make", "words"), UNSAFE)
@pytest.mark.parametrize("create", [True, False])
def test_an_unsafe_directory_is_refused_by_the_name_of_its_setting(
    tmp_path: Path, make: Callable[[Path], None], words: str, create: bool
) -> None:
    path = tmp_path / "outer"
    make(path)
    with (
        pytest.raises(SettingsError, match=words) as refused,
        private_directory(path, create=create, key=KEY),
    ):
        pass
    assert (refused.value.key, refused.value.value) == (KEY, str(path))


@pytest.mark.parametrize(("make", "words"), UNSAFE)
@pytest.mark.parametrize("create", [True, False])
def test_an_unsafe_sub_folder_is_refused_by_its_whole_path(
    tmp_path: Path, make: Callable[[Path], None], words: str, create: bool
) -> None:
    path = tmp_path / "outer"
    path.mkdir(mode=0o700)
    make(path / "inner")
    with (
        private_directory(path, create=create, key=KEY) as outer,
        pytest.raises(SettingsError, match=words) as refused,
        private_subdirectory(outer, "inner", create=create, key=KEY, within=path),
    ):
        pass
    assert refused.value.value == str(path / "inner")


def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    path, user = another_users(tmp_path / "outer")
    with (
        pytest.raises(SettingsError, match=f"owned by user {user}"),
        private_directory(path, create=True, key=KEY),
    ):
        pass


def test_a_directory_that_is_swapped_after_opening_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "outer"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    with private_directory(path, create=True, key=KEY) as outer:
        path.rename(tmp_path / "moved")
        path.symlink_to(elsewhere)
        with private_subdirectory(outer, "inner", create=True, key=KEY, within=path) as inner:
            write(inner, "file")
    assert list(elsewhere.iterdir()) == []
    assert (tmp_path / "moved" / "inner" / "file").exists()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = descriptors()
    path = tmp_path / "outer"
    with (
        pytest.raises(RuntimeError),
        private_directory(path, create=True, key=KEY) as outer,
        private_subdirectory(outer, "inner", create=True, key=KEY, within=path),
    ):
        raise RuntimeError("inside")
    path.chmod(0o755)
    with pytest.raises(SettingsError), private_directory(path, create=True, key=KEY):
        pass
    assert descriptors() == before


def test_a_users_directory_is_where_the_system_says_and_named_by_program_and_user(
    tmp_path: Path,
) -> None:
    name = f"crew-{os.geteuid()}"
    elsewhere = Path(tempfile.gettempdir()) / name
    assert user_directory("crew", {"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / name
    assert user_directory("crew", {}) == elsewhere
    assert user_directory("crew", {"XDG_RUNTIME_DIR": "/does/not/exist"}) == elsewhere
    theirs, _ = another_users(tmp_path / "theirs")
    assert user_directory("crew", {"XDG_RUNTIME_DIR": str(theirs)}) == elsewhere
    assert not list(tmp_path.glob("crew*"))


def test_a_path_is_known_where_no_temporary_directory_can_be_written() -> None:
    # A process that cannot write anywhere, not even here: every directory is read-only to it.
    script = (
        "import tempfile; tempfile._candidate_tempdir_list = list\n"
        "from netmesh.private import user_directory; print(user_directory('n', {}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(MESH_ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert ended.stdout.strip() == f"/tmp/n-{os.geteuid()}"
