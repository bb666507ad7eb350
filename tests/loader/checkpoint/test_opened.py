from __future__ import annotations

import builtins
import gc
import io
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from netloader.checkpoint.opened import Opened, unheeded, watching

CHECKPOINT = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with things beside it that a model class may read."""
    folder = tmp_path / "model"
    adapters = folder / "adapters" / "x"
    adapters.mkdir(parents=True)
    tensors = {"a": torch.zeros(2)}
    safetensors.torch.save_file(tensors, folder / CHECKPOINT)
    safetensors.torch.save_file(tensors, adapters / "adapter_model.safetensors")
    torch.save(tensors, adapters / "adapter.pt")
    np.save(adapters / "adapter.npy", np.zeros(2))
    np.savez(adapters / "adapter.npz", a=np.zeros(2))
    (adapters / "weights").write_bytes(b"raw")
    for name in ("config.json", "tokenizer.model", "vocab.txt", "code.py", ".gitattributes"):
        (folder / name).write_text("{}")
    return folder


def beyond(opened: Opened, folder: Path) -> list[str]:
    """Names of what is opened beyond the checkpoint."""
    return [
        str(path.relative_to(folder)) for path in opened.beyond([folder / CHECKPOINT], [folder])
    ]


def read(path: Path) -> None:
    with path.open("rb") as file:
        file.read()


def read_by_descriptor(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY))


def read_bytes_name(path: Path) -> None:
    os.close(os.open(os.fsencode(path), os.O_RDONLY))


def safe_open(path: Path) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        file.get_tensor("a")


def safe_open_by_keyword(path: Path) -> None:
    with safetensors.safe_open(filename=str(path), framework="np") as file:
        file.get_tensor("a")


def map_to_memory(path: Path) -> None:
    np.load(path, mmap_mode="r")


def map_with_torch(path: Path) -> None:
    torch.load(path, weights_only=True, mmap=True)


def in_a_thread(path: Path) -> None:
    thread = threading.Thread(target=safe_open, args=(path,))
    thread.start()
    thread.join()


ADAPTER = "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (ADAPTER, read),
        (ADAPTER, read_by_descriptor),
        (ADAPTER, read_bytes_name),
        (ADAPTER, safe_open),
        (ADAPTER, safe_open_by_keyword),
        (ADAPTER, in_a_thread),
        (ADAPTER, safetensors.torch.load_file),
        (ADAPTER, safetensors.numpy.load_file),
        ("adapter.pt", lambda path: torch.load(path, weights_only=True)),
        ("adapter.pt", map_with_torch),
        ("adapter.npy", np.load),
        ("adapter.npy", map_to_memory),
        ("adapter.npz", np.load),
        ("weights", np.fromfile),
    ],
)
def test_what_a_model_reads_beside_its_checkpoint_is_noted(
    folder: Path, name: str, read: Callable[[Path], object]
) -> None:
    opened = Opened()
    with watching(opened):
        read(folder / "adapters" / "x" / name)

    assert beyond(opened, folder) == [f"adapters/x/{name}"]


def test_configs_tokenizers_and_code_do_not_count(folder: Path) -> None:
    opened = Opened()
    with watching(opened):
        for path in folder.iterdir():
            if path.is_file():
                read(path)

    assert len(opened.paths) > 5
    assert beyond(opened, folder) == []


@pytest.mark.parametrize("link", ["symbolic", "hard", "folder"])
def test_a_covered_file_is_covered_by_any_name(folder: Path, tmp_path: Path, link: str) -> None:
    other = folder / "other.safetensors"
    if link == "symbolic":
        other.symlink_to(CHECKPOINT)
    elif link == "hard":
        other.hardlink_to(folder / CHECKPOINT)
    else:
        (tmp_path / "link").symlink_to(folder)
        other = tmp_path / "link" / CHECKPOINT
    opened = Opened()
    with watching(opened):
        safe_open(other)

    assert str(other) in opened.paths
    assert beyond(opened, folder) == []
    assert opened.beyond([other], [folder]) == []


def test_elsewhere_weights_are_known_by_their_endings(folder: Path, tmp_path: Path) -> None:
    for name in ("head.bin", "head.PTH", "log", "data.csv", "cache.so"):
        (tmp_path / name).write_bytes(b"")
    opened = Opened()
    with watching(opened):
        for path in tmp_path.iterdir():
            if path.is_file():
                read(path)

    assert opened.beyond([], [folder]) == [tmp_path / "head.PTH", tmp_path / "head.bin"]


def test_a_link_that_leads_to_the_checkpoint_lies_beside_it(folder: Path, tmp_path: Path) -> None:
    """By either end: an ending-less blob is known by where the link to it lies."""
    blob = tmp_path / "blob"
    blob.write_bytes(b"raw")
    (folder / "from-here").symlink_to(blob)
    (tmp_path / "to-there").symlink_to(folder / "adapters" / "x" / "weights")
    (tmp_path / "way").symlink_to(folder)
    opened = Opened()
    with watching(opened):
        read(tmp_path / "to-there")
        read(tmp_path / "way" / "from-here")

    assert opened.beyond([], [folder]) == [tmp_path / "to-there", tmp_path / "way" / "from-here"]


def test_a_blob_of_the_snapshot_counts_by_its_own_name_as_well(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "c0ffee"
    for place in (snapshot, repository / "blobs"):
        place.mkdir(parents=True)
    blob = repository / "blobs" / "0123abcd"
    blob.write_bytes(b"raw")
    (snapshot / "adapter").symlink_to(blob)
    opened = Opened()
    with watching(opened):
        read(blob)

    assert opened.beyond([], [snapshot]) == [blob]
    assert opened.beyond([snapshot / "adapter"], [snapshot]) == []


def test_a_relative_name_is_that_of_the_moment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened()
    with watching(opened):
        monkeypatch.chdir(folder / "adapters")
        read(Path("x/adapter.pt"))
        monkeypatch.chdir(tmp_path)

    assert beyond(opened, folder) == ["adapters/x/adapter.pt"]


def test_what_is_written_is_not_read(folder: Path) -> None:
    opened = Opened()
    with watching(opened):
        for mode in ("wb", "ab", "xb"):
            (folder / f"{mode}.bin").open(mode).close()
        os.close(os.open(folder / "wb.bin", os.O_WRONLY))

    assert beyond(opened, folder) == []


def test_what_is_not_there_was_not_read(folder: Path) -> None:
    opened = Opened()
    with watching(opened), pytest.raises(FileNotFoundError):
        read(folder / "missing.bin")

    assert beyond(opened, folder) == []


def test_folders_descriptors_and_pipes_do_no_harm(folder: Path) -> None:
    opened = Opened()
    with watching(opened):
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        one, other = os.pipe()
        for descriptor in (one, other):
            os.fdopen(descriptor, "rb" if descriptor == one else "wb").close()

    assert beyond(opened, folder) == []


def test_nothing_is_noted_before_or_afterwards_or_unheeded(folder: Path) -> None:
    adapter = folder / "adapters" / "x" / ADAPTER
    opened = Opened()
    safe_open(adapter)
    with watching(opened), unheeded():
        safe_open(adapter)
        with unheeded():
            read(adapter)
        read(adapter)
    safe_open(adapter)
    read(adapter)

    assert beyond(opened, folder) == []


def test_unheeded_is_the_thread_alone(folder: Path) -> None:
    opened = Opened()
    with watching(opened), unheeded():
        in_a_thread(folder / "adapters" / "x" / ADAPTER)

    assert beyond(opened, folder) == [f"adapters/x/{ADAPTER}"]


# Several watchers.


def test_nested_watchers_are_told_while_they_watch(folder: Path) -> None:
    """Two that have heard the same are still two."""
    places = folder / "adapters" / "x"
    outer, inner = Opened(), Opened()
    with watching(outer):
        with watching(inner):
            safe_open(places / ADAPTER)
        read(places / "adapter.pt")

    assert beyond(inner, folder) == [f"adapters/x/{ADAPTER}"]
    assert beyond(outer, folder) == ["adapters/x/adapter.pt", f"adapters/x/{ADAPTER}"]


def test_watchers_may_end_in_the_order_in_which_they_began(folder: Path) -> None:
    adapter = folder / "adapters" / "x" / ADAPTER
    real = safetensors.safe_open
    first, second = Opened(), Opened()
    one, other = watching(first), watching(second)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    safe_open(adapter)
    other.__exit__(None, None, None)

    assert beyond(first, folder) == []
    assert beyond(second, folder) == [f"adapters/x/{ADAPTER}"]
    assert safetensors.safe_open is real


# `safe_open`.


def test_safe_open_is_watched_under_every_name_and_put_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = safetensors.safe_open
    module = ModuleType("netloader_test_module")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.open_tensors = real  # type: ignore[attr-defined]
    opened = Opened()
    with watching(opened):
        module.open_tensors(folder / "adapters" / "x" / ADAPTER, "pt")

    assert beyond(opened, folder) == [f"adapters/x/{ADAPTER}"]
    assert module.open_tensors is safetensors.safe_open is safetensors.torch.safe_open is real  # type: ignore[attr-defined]


def test_a_module_that_is_imported_in_the_meantime_gets_the_real_one_afterwards(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("netloader_test_module")
    source = """
from safetensors import safe_open as opener

def accepts(file: opener | None, other: None | opener) -> bool:
    return isinstance(file, opener)
"""
    opened = Opened()
    with watching(opened):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(source, module.__dict__)
        with module.opener(folder / CHECKPOINT, framework="pt") as file:
            assert module.accepts(file, None)
            assert not module.accepts(None, None)

    assert module.opener is safetensors.safe_open


def test_safe_open_is_put_back_after_an_error(folder: Path) -> None:
    real = safetensors.safe_open
    with pytest.raises(ZeroDivisionError), watching(Opened()):
        raise ZeroDivisionError

    assert safetensors.safe_open is real


def test_errors_of_safe_open_are_its_own(folder: Path) -> None:
    with watching(Opened()):
        with pytest.raises(FileNotFoundError):
            safetensors.safe_open(folder / "missing.safetensors", framework="pt")
        with pytest.raises(TypeError):
            safetensors.safe_open(5, framework="pt")


def test_what_was_noted_is_let_go(folder: Path) -> None:
    """Nobody holds on to a model's notes once they are done with."""
    opened = Opened()
    gone = weakref.ref(opened)
    with watching(opened):
        read(folder / CHECKPOINT)
    del opened
    gc.collect()

    assert gone() is None


def test_without_safetensors_files_are_noted_all_the_same(folder: Path) -> None:
    code = """
import sys
from netloader.checkpoint.opened import Opened, watching
sys.modules["safetensors"] = None
opened = Opened()
with watching(opened):
    open(sys.argv[1]).close()
print(*opened.beyond([], []))
"""
    adapter = str(folder / "adapters" / "x" / "adapter.pt")
    run = subprocess.run(
        [sys.executable, "-c", code, adapter], capture_output=True, check=True, text=True
    )

    assert run.stdout.strip() == adapter


def test_the_doors_are_as_they_were_when_nobody_watches(folder: Path) -> None:
    before = builtins.open, io.open, os.open
    with watching(Opened()):
        assert builtins.open is not before[0]
        with watching(Opened()):
            pass
        assert builtins.open is not before[0]
    assert (builtins.open, io.open, os.open) == before


def test_another_keeper_of_open_stays_where_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.open

    def theirs(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs)

    monkeypatch.setattr(builtins, "open", theirs)
    with watching(Opened()):
        assert builtins.open is theirs
    assert builtins.open is theirs
