"""One process that makes models as a notebook does: one after the other, and several at once.

`python -m tests.e2e.notebook ONE TWO` tells in one JSON object what became of each.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

_GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
_PATIENCE_S = 60.0


def made(name: str, model: str, mesh: str) -> tuple[LLM, dict[str, Any]]:
    """A model, and what is known of it: its tokens, and where its weights came from."""
    prefix = f"{os.environ['HOME']}/{name}."
    llm = LLM(
        model=model,
        load_format="netloader",
        model_loader_extra_config={
            "MESH_NAME": mesh,
            "REPORT_PREFIX": prefix,
            "REPORT_TENSORS": True,
        },
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=64,
        kv_cache_memory_bytes=1 << 24,
        max_num_seqs=2,
    )
    # It makes a source of the worker, writes the report and ends.
    for thread in threading.enumerate():
        if thread.name == "netloader-offer":
            thread.join(_PATIENCE_S)
    report = json.loads(Path(f"{prefix}0.json").read_bytes())
    return llm, report | {"tokens": tokens(llm)}


def tokens(llm: LLM) -> list[int]:
    (answer,) = llm.generate(["The mesh knows"], _GREEDY, use_tqdm=False)
    return list(answer.outputs[0].token_ids)


def ready(mesh: str) -> list[str]:
    """Who can be asked for weights in a mesh, as `mesh-inspect` says."""
    said = subprocess.run(
        ["mesh-inspect", "--mesh", mesh, "-o", "json"], capture_output=True, timeout=60
    )
    members = json.loads(said.stdout)["members"] if said.returncode == 0 else []
    return sorted(member["endpoint"] for member in members if member["ready"])


def until_nobody(mesh: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while found := ready(mesh):
        assert time.monotonic() < deadline, found


def main(one: str, two: str) -> None:
    told: dict[str, Any] = {}
    first, told["first"] = made("first", one, "alpha")
    told["alpha"] = ready("alpha")
    first.llm_engine.engine_core.shutdown()
    del first
    gc.collect()
    until_nobody("alpha")

    # Two of the same role and other settings, and one that could take its weights from the second.
    second, told["second"] = made("second", two, "beta")
    third, told["third"] = made("third", one, "beta")
    fourth, told["fourth"] = made("fourth", two, "beta")
    told["beta"] = ready("beta")
    told["at once"] = [tokens(llm) for llm in (second, third, fourth)]
    print(json.dumps(told), file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
