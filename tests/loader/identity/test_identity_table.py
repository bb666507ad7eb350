"""The table of docs/concepts/identity.md, row by row: what may differ between two that share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import WeightFile
from netloader.identity.identity import Evidence, Identity, Names, known, mismatch, names_differ
from netloader.identity.model_config import parts

DOCS = Path(__file__).parents[3] / "docs" / "concepts" / "identity.md"
CONFIG = transformers.LlamaConfig(
    hidden_size=64, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
).to_dict()
CONFIG |= {"quantization_config": {"bits": 4}}

Pair = tuple[Identity, Identity]


def worker(
    config: Mapping[str, object] | None = None,
    *,
    names: Names | None = None,
    built: Mapping[str, str | int] | None = None,
    content: Mapping[Evidence, str] | None = None,
    dtype: str = "bfloat16",
) -> Identity:
    return Identity(
        names or Names("", "org/m", "/models/m"),
        architecture="LlamaForCausalLM",
        dtype=dtype,
        quantization="",
        config=parts({**CONFIG, **(config or {})}),
        built={"tp_size": 2, "tp_rank": 0, "code.vllm": "0.32.0", **(built or {})},
        content=content if content is not None else {Evidence.SAMPLE: "s"},
    )


def config(mine: Mapping[str, object], theirs: Mapping[str, object]) -> Pair:
    return worker(mine), worker(theirs)


def files(folder: Path, cut: int = 1, change: bool = False) -> list[WeightFile]:
    """A checkpoint of four tensors in `cut` files; with `change` one tensor is another one."""
    tensors = {
        f"layer.{n}.weight": torch.full((64, 64), float(n + (9 if change and n == 2 else 0)))
        for n in range(4)
    }
    names = list(tensors)
    folder.mkdir(exist_ok=True)
    made = []
    for part in range(cut):
        path = folder / f"part-{part}-of-{cut}.safetensors"
        save_file({name: tensors[name] for name in names[part::cut]}, path)
        made.append(WeightFile(path))
    return made


def blobs(folder: Path, byte: bytes) -> list[WeightFile]:
    """A file as the Hub's cache lays it out, named by a hash whatever it holds."""
    (found,) = files(folder)
    data = bytearray(found.path.read_bytes())
    data[-1:] = byte
    blob = folder / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(data)
    link = folder / "snapshots" / "c" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return [WeightFile(link)]


def by_sample(mine: list[WeightFile], theirs: list[WeightFile]) -> Pair:
    return (
        worker(content={Evidence.SAMPLE: evidence.sample(mine)}),
        worker(content={Evidence.SAMPLE: evidence.sample(theirs)}),
    )


def by_blobs(mine: list[WeightFile], theirs: list[WeightFile]) -> Pair:
    one, other = evidence.blobs(mine), evidence.blobs(theirs)
    assert one is not None and other is not None
    return worker(content={Evidence.BLOBS: one}), worker(content={Evidence.BLOBS: other})


def leftovers(folder: Path) -> Pair:
    """vLLM says which files count, so leftovers are not among them (tests/e2e/test_selection)."""
    torch.save({"a": torch.zeros(9)}, folder / "pytorch_model.bin")
    torch.save({"learning_rate": 1}, folder / "training_args.bin")
    mine = [WeightFile(folder / "pytorch_model.bin")]
    before = evidence.sample(mine)
    torch.save({"learning_rate": 2}, folder / "training_args.bin")
    return (
        worker(content={Evidence.SAMPLE: before}),
        worker(content={Evidence.SAMPLE: evidence.sample(mine)}),
    )


A, B = {Evidence.COMMIT: "org/m@a"}, {Evidence.COMMIT: "org/m@b"}

ROWS: dict[str, Callable[[Path], Pair]] = {
    "path, trailing slash, link, snapshot path": lambda tmp: (
        worker(names=Names("", "org/m", "/cache/models--org--m/snapshots/c")),
        worker(names=Names("", "/mnt/m", "/mnt/m/")),
    ),
    "`MODEL` set on one side only": lambda tmp: (worker(names=Names("a")), worker()),
    "`MODEL` set on both sides": lambda tmp: (worker(names=Names("a")), worker(names=Names("b"))),
    "ids of special tokens": lambda tmp: config({"eos_token_id": 1}, {"eos_token_id": [1, 2]}),
    "`use_cache` and other switches of transformers": lambda tmp: config(
        {"use_cache": True}, {"use_cache": False, "output_attentions": True}
    ),
    "labels of classes": lambda tmp: config({"id2label": {0: "x"}}, {"id2label": {0: "y"}}),
    "settings of generation": lambda tmp: config({"temperature": 1.0}, {"temperature": 0.5}),
    "settings of training (`initializer_range`, dropout)": lambda tmp: config(
        {"initializer_range": 0.02}, {"initializer_range": 0.03, "attention_dropout": 0.1}
    ),
    "release of transformers that wrote the config": lambda tmp: config(
        {"transformers_version": "5.0"}, {"transformers_version": "5.1"}
    ),
    "sliding window switched off": lambda tmp: config({"sliding_window": 9}, {}),
    "a key that is null on one side and missing on the other": lambda tmp: config(
        {"new_key": None}, {}
    ),
    "base of the rotary tables": lambda tmp: config(
        {}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    ),
    "`rms_norm_eps`": lambda tmp: config({}, {"rms_norm_eps": 0.01}),
    "a config key that this version has never heard of": lambda tmp: config({}, {"new_key": 1}),
    "bits of the quantisation config": lambda tmp: config({}, {"quantization_config": {"bits": 8}}),
    "dtype": lambda tmp: (worker(), worker(dtype="float16")),
    "tensor-parallel rank": lambda tmp: (worker(), worker(built={"tp_rank": 1})),
    "shard of the expert layers (data-parallel rank of a mixture)": lambda tmp: (
        worker(built={"shard.FusedMoE": "tp_rank=0"}),
        worker(built={"shard.FusedMoE": "tp_rank=1"}),
    ),
    "release of vLLM": lambda tmp: (worker(), worker(built={"code.vllm": "0.33.0"})),
    "target and draft": lambda tmp: (worker(), replace(worker(), role="draft")),
    "commit of the repository, with equal files in both Hub caches": lambda tmp: (
        worker(content=A | {Evidence.BLOBS: "1"}),
        worker(content=B | {Evidence.BLOBS: "1"}),
    ),
    "commit of the repository, with equal bytes known to both": lambda tmp: (
        worker(content=A | {Evidence.SAMPLE: "1"}),
        worker(content=B | {Evidence.SAMPLE: "1"}),
    ),
    "commit of the repository, and nothing else known to both": lambda tmp: (
        worker(content=A | {Evidence.SAMPLE: "1"}),
        worker(content=B | {Evidence.BLOBS: "1"}),
    ),
    "bytes of a Hub blob under an equal name": lambda tmp: by_blobs(
        blobs(tmp / "one", b"\x01"), blobs(tmp / "two", b"\x02")
    ),
    "how tensors are cut into files, names of files": lambda tmp: by_sample(
        files(tmp / "one"), files(tmp / "two", cut=3)
    ),
    "one tensor": lambda tmp: by_sample(files(tmp / "one"), files(tmp / "two", change=True)),
    "leftovers beside a `.bin` that vLLM does not load": leftovers,
    "nothing known to both of the content": lambda tmp: (worker(), worker(content=A)),
}

STATIC = "name of the model of a static `SOURCE`"


def table() -> list[tuple[str, str, str]]:
    """The rows of the document's last table: what differs, outcome, words."""
    text = DOCS.read_text()
    rows = text[text.index("| what differs between two workers |") :].splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if row[:1] == "|"]
    return [(what, outcome, words.strip("`")) for what, outcome, words in cells]


@pytest.mark.parametrize(("what", "outcome", "words"), table())
def test_row(what: str, outcome: str, words: str, tmp_path: Path) -> None:
    if what == STATIC:
        mine = worker(names=Names("", "/a", "/a"))
        found = names_differ(mine.names, Names("", "/b", "/b").travelling())
    else:
        mine, theirs = ROWS[what](tmp_path)
        found = mismatch(mine, theirs.fields(), known(theirs.content), theirs.names.travelling())
    assert (found is None) == (outcome == "shared"), found
    assert words in (found or "")
    assert bool(words) == (outcome == "refused")


def test_no_row_is_without_a_test_and_no_test_without_a_row() -> None:
    assert {what for what, _, _ in table()} == ROWS.keys() | {STATIC}
