"""Ranks whose weights differ never match, whatever the layout; dense data-parallel ranks do."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import isolated_environment, run_vllm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODELS = ("llama", "mixtral", "gpt-oss")
"""Dense, with experts by vLLM's common code, and by code of its own. `python -m tests.e2e.layouts
FOLDER` has more; vLLM needs ten seconds to look into each architecture."""

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows(home: Path) -> dict[str, list[Row]]:
    """What `layouts.py` says of every rank of every layout, by model."""
    # No loader of ours or of others: vLLM's own fills the models.
    env = isolated_environment(home) | {"VLLM_PLUGINS": ""}
    status, output = run_vllm(
        "tests.e2e.layouts", "--forks", str(home), *MODELS, env=env, timeout_s=580
    )
    assert status == 0, output[-4000:]
    found: dict[str, list[Row]] = defaultdict(list)
    for line in output.splitlines():
        if line.startswith('{"model"'):
            row = json.loads(line)
            found[row["model"]].append(row)
    return found


def confused(rows: list[Row], key: Callable[[Row], object]) -> list[tuple[Row, Row]]:
    """Pairs that `key` and the manifest call equal, although storage gave them other weights."""
    first: dict[object, Row] = {}
    return [
        (known, row)
        for row in rows
        if (known := first.setdefault((key(row), row["manifest"]), row))["bytes"] != row["bytes"]
    ]


def all_parts(row: Row) -> object:
    return json.dumps(row["built"], sort_keys=True)


def shards_alone(row: Row) -> object:
    return row["built"]["shards"]


def groups_alone(row: Row) -> object:
    """What a worker can say before its model is built."""
    return tuple(row["built"][f"{group}_{what}"] for group in GROUPS for what in ("size", "rank"))


GROUPS = ("tp", "pp", "ep")


@pytest.mark.parametrize("model", MODELS)
def test_ranks_with_other_weights_never_match(rows: dict[str, list[Row]], model: str) -> None:
    assert len(rows[model]) > 20
    assert confused(rows[model], all_parts) == []


@pytest.mark.parametrize("model", MODELS)
def test_the_built_modules_alone_tell_ranks_apart(rows: dict[str, list[Row]], model: str) -> None:
    """Without the groups that are named for caution's sake."""
    assert confused(rows[model], shards_alone) == []


@pytest.mark.parametrize("model", ["mixtral", "gpt-oss"])
def test_flags_would_call_ranks_equal_that_hold_other_experts(
    rows: dict[str, list[Row]], model: str
) -> None:
    """Why the modules are asked: these layouts do contain ranks that are easily confused."""
    pairs = confused(rows[model], groups_alone)

    assert any(not one["layout"]["expert_parallel"] and one["layout"]["dp"] > 1 for _, one in pairs)


def test_dense_ranks_with_equal_weights_have_equal_parts(rows: dict[str, list[Row]]) -> None:
    """Over all data-parallel and context-parallel ranks, and over layouts."""
    parts: dict[object, set[object]] = defaultdict(set)
    for row in rows["llama"]:
        parts[row["manifest"], row["bytes"]].add(all_parts(row))

    assert len(parts) == 9, "the shards of 1 or 2 stages with 1 or 2 ranks each"
    assert {len(variants) for variants in parts.values()} == {1}


@pytest.mark.parametrize("model", MODELS)
def test_settings_that_shape_no_weights_keep_nobody_apart(
    rows: dict[str, list[Row]], model: str
) -> None:
    """LoRA, lengths, KV cache, kernels' exchange and graphs, on real layers."""
    plain = {row["rank"]: row for row in rows[model] if row["layout"] == LAYOUT}
    with_settings = [
        row
        for row in rows[model]
        if row["layout"]["setting"] and row["layout"] | {"setting": ""} == LAYOUT
    ]

    assert {row["layout"]["setting"] for row in with_settings} >= {"lora", "length", "kv-cache"}
    for row in with_settings:
        assert row["built"] == plain[row["rank"]]["built"]


LAYOUT = {
    "tp": 2,
    "pp": 1,
    "dp": 2,
    "pcp": 1,
    "expert_parallel": False,
    "placement": "linear",
    "setting": "",
}


def test_ranks_are_named_by_group(rows: dict[str, list[Row]]) -> None:
    """In words for people, rank before size, and by group for whoever looks."""
    for row in rows["mixtral"]:
        layout, built = row["layout"], row["built"]
        inner = layout["tp"] * layout["pp"] * layout["pcp"]
        assert (built["dp_size"], built["dp_rank"]) == (layout["dp"], row["rank"] // inner)
        assert built["tp_size"] == layout["tp"]
        assert built["tp_rank"] == row["rank"] % layout["tp"]
        over = layout["tp"] * layout["dp"] * layout["pcp"]
        assert built["ep_size"] == (over if layout["expert_parallel"] else 1)
        words = f"tp {built['tp_rank']}/{layout['tp']}" if layout["tp"] > 1 else "whole"
        assert built["shard.RowParallelLinear"] == words


def test_an_expert_map_of_another_file_is_another_part(tmp_path: Path) -> None:
    from netloader.engine.parallel import expert_map_file
    from netloader.errors import IdentityError

    one, same, other = (tmp_path / name for name in ("one.json", "same.json", "other.json"))
    one.write_text("[0, 1]")
    same.write_text("[0, 1]")
    other.write_text("[1, 0]")

    assert expert_map_file({}) == expert_map_file(None) == "none"
    assert expert_map_file({"expert_map_path": str(one)}) == expert_map_file(
        {"eplb_config": {"expert_map_path": str(same)}}
    )
    assert expert_map_file({"expert_map_path": str(one)}) != expert_map_file(
        {"expert_map_path": str(other)}
    )
    with pytest.raises(IdentityError, match=r"gone\.json"):
        expert_map_file({"expert_map_path": str(tmp_path / "gone.json")})
