"""Evidence of torch's archives, and of formats without a table of tensors."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tests.loader.checkpoint.evidence_files import BOTH, Counted, Of, one
from tests.loader.trees import of

from netloader.checkpoint.evidence import Reading, WeightFile, sample
from netloader.errors import IdentityError


def saved(path: Path, tensors: Mapping[str, torch.Tensor], *, legacy: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(tensors), path, _use_new_zipfile_serialization=not legacy)
    return path


def weights(seed: int = 1) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(300, 300, generator=random), "b": torch.randn(3, generator=random)}


@BOTH
def test_archive_is_the_same_under_every_name(tmp_path: Path, evidence: Of) -> None:
    mine = saved(tmp_path / "pytorch_model.bin", weights())
    theirs = saved(tmp_path / "an_other_name_of_it.pt", weights())
    other = saved(tmp_path / "other" / "pytorch_model.bin", weights(2))
    assert evidence(of([mine])) == evidence(of([theirs])) != evidence(of([other]))


@BOTH
def test_archive_with_tensors_swapped_in_its_pickle_is_another(
    tmp_path: Path, evidence: Of
) -> None:
    tensors = weights()
    mine = saved(tmp_path / "1.bin", tensors)
    theirs = saved(tmp_path / "2.bin", {"b": tensors["w"], "w": tensors["b"]})
    assert evidence(of([mine])) != evidence(of([theirs]))


@BOTH
@pytest.mark.parametrize("where", ["first", "last"])
def test_bytes_of_an_archives_records_are_read(tmp_path: Path, evidence: Of, where: str) -> None:
    """Its checksums alone are a claim: nobody computes them anew when bytes rot."""
    mine = saved(tmp_path / "1.bin", weights())
    data = weights()["w"].numpy().tobytes()
    bytes_of = bytearray(mine.read_bytes())
    at = bytes_of.index(data) + (0 if where == "first" else len(data) - 1)
    bytes_of[at] ^= 1
    theirs = tmp_path / "2.bin"
    theirs.write_bytes(bytes_of)
    assert evidence(of([mine])) != evidence(of([theirs]))


def test_archive_is_not_read_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.bin", {f"w{at}": torch.zeros(1 << 20) for at in range(4)})
    counted = Counted()
    sample(of([path]), reading=Reading(pread=counted))
    assert 0 < sum(counted.reads) < 200_000 < path.stat().st_size


@BOTH
@pytest.mark.parametrize("at", [0, 70_000, -1])
def test_every_byte_of_a_format_without_a_table_counts(
    tmp_path: Path, evidence: Of, at: int
) -> None:
    mine = saved(tmp_path / "1.bin", weights(), legacy=True)
    data = bytearray(mine.read_bytes())
    data[at] ^= 1
    theirs = tmp_path / "2.bin"
    theirs.write_bytes(data)
    assert evidence(of([mine])) != evidence(of([theirs]))


@BOTH
@pytest.mark.parametrize("cut", [100, 5000, 360_000])
def test_half_an_archive_is_another_file(tmp_path: Path, evidence: Of, cut: int) -> None:
    mine = saved(tmp_path / "1.bin", weights())
    theirs = tmp_path / "2.bin"
    theirs.write_bytes(mine.read_bytes()[:cut])
    assert evidence(of([mine])) != evidence(of([theirs]))


def test_archive_whose_table_leads_astray_is_an_identity_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.bin", weights())
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02", data.index(weights()["w"].numpy().tobytes()))
    while data[central + 46 : central + 46 + 8] != b"1/data/0":
        central = data.index(b"PK\x01\x02", central + 4)
    for field in (20, 24):
        data[central + field : central + field + 4] = struct.pack("<I", 1 << 30)
    path.write_bytes(data)
    with pytest.raises(IdentityError, match=r"1\.bin"):
        sample(of([path]))


@BOTH
def test_archives_and_tensors_side_by_side_all_count(tmp_path: Path, evidence: Of) -> None:
    (plain,) = one(tmp_path)
    heads = [WeightFile(saved(tmp_path / f"{at}.pt", weights(at)), f"head{at}.") for at in (1, 2)]
    files = [plain, *heads]
    assert evidence(files) == evidence(list(files))
    others = (files[:2], [plain, heads[1], heads[0]], [*heads, plain], [plain, heads[0], heads[0]])
    assert len({evidence(files), *map(evidence, others)}) == 5
