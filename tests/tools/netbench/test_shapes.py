"""Lists of tensors: the made-up ones, and files that are wrong in every way."""

from pathlib import Path

import pytest
import torch

from netbench.models import empty_model, fill
from netbench.shapes import ShapeError, TensorRow, llama, moe, parse, rows_of
from netloader.weights.capture import capture


@pytest.mark.parametrize("nbytes", [4_000_000, 100_000_000, 1 << 30])
def test_llama_has_171_tensors_and_about_the_bytes_that_were_asked_for(nbytes: int) -> None:
    rows = llama(nbytes)
    assert len(rows) == 171
    assert sum(row.nbytes for row in rows) == pytest.approx(nbytes, rel=0.02)
    assert max(row.nbytes for row in rows) <= 65_000_000


def test_moe_is_experts_of_200_kilobytes() -> None:
    rows = moe(1_000_000_000)
    assert len(rows) == 5000
    assert {row.nbytes for row in rows} == {200_000}


def test_a_row_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("# a comment\n\nlm_head.weight bfloat16 32x16  # last\nscale float32 -\n")
    rows = rows_of(str(path), None)
    assert rows == (
        TensorRow("lm_head.weight", torch.bfloat16, (32, 16)),
        TensorRow("scale", torch.float32, ()),
    )
    assert [row.nbytes for row in rows] == [1024, 4]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("weight bfloat16", "is not `name dtype shape`"),
        ("weight brainfloat 4x4", "no dtype 'brainfloat'; known are"),
        ("weight bfloat16 4,4", "is not like 4096x1024"),
        ("weight bfloat16 4x-4", "is not like 4096x1024"),
        ("a..b bfloat16 4", "no name of a parameter"),
        ("good bfloat16 4", "is there already"),
    ],
)
def test_a_bad_line_is_named(line: str, what: str) -> None:
    with pytest.raises(ShapeError, match=r"list:2: ") as caught:
        parse(["good bfloat16 4", line], "list")
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "has no tensors"),
        (["a bfloat16 0"], "no bytes, or more than"),
        (["a bfloat16 999999999x999999999"], "no bytes, or more than"),
        (["a bfloat16 1", "a.b bfloat16 1"], "lies inside another tensor's name"),
    ],
)
def test_a_list_that_makes_no_model_is_refused(lines: list[str], what: str) -> None:
    with pytest.raises(ShapeError, match=what):
        parse(lines, "list")


def test_an_unknown_shape_is_told_what_there_is() -> None:
    with pytest.raises(ShapeError, match="neither llama nor moe nor a readable row list"):
        rows_of("no-such-file", None)


def test_a_row_list_is_not_scaled(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("a int8 1\n")
    with pytest.raises(ShapeError, match="has its own sizes"):
        rows_of(str(tmp_path / "rows"), 1000)


def test_equal_seeds_fill_models_with_equal_bytes() -> None:
    rows = parse(["a.b bfloat16 33x7", "a.c bool 5", "d int8 -"], "list")
    sums = []
    for seed in (1, 1, 2):
        weights = capture(empty_model(rows))
        fill(weights, seed)
        sums.append(weights.sha256())
    assert sums[0] == sums[1] != sums[2]
