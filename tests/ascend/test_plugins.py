"""Beside vLLM Ascend's loader of the same name, in real NPUWorkers: both orders of the plugins."""

from __future__ import annotations

import importlib.metadata
import re
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch_npu
from torch._C._distributed_c10d import BarrierOptions
from torch.distributed import Work
from torch_npu._C._distributed_c10d import ProcessGroupHCCL

from tests.ascend.llama import storage_digests
from tests.ascend.processes import START_S, Process
from tests.device_symbols import ASCEND, used
from tests.e2e.models import make_llama
from tests.free_ports import free_port
from tests.loader.engine.test_vllm_interface import (
    installed,
    ours,
    test_our_calls_fit,
    test_our_methods_take_what_vllms_take,
    test_the_record_of_the_installed_version_is_what_is_installed,
)

# The contract with vLLM holds here too, where another version is installed.
__all__ = [
    "installed",
    "ours",
    "test_our_calls_fit",
    "test_our_methods_take_what_vllms_take",
    "test_the_record_of_the_installed_version_is_what_is_installed",
]

pytestmark = pytest.mark.timeout(600)

OURS = "netloader.engine.plugin:register"
THEIRS = "vllm_ascend:register_model_loader"


NOT_IN_TORCH_NPU = {"aclrtDeviceGetStreamPriorityRange"}
"""Of CANN's functions those that torch_npu 2.13 does not call: a CANN may lack them, and our code
goes on without."""


def test_both_orders_of_the_plugins_end_the_same_way(tmp_path: Path) -> None:
    model = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    wanted = storage_digests(model)
    orders = {"ours": [OURS, THEIRS], "theirs": [THEIRS, OURS]}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Process(
                    "tests.ascend.ordered_worker",
                    tmp_path,
                    name,
                    order=order,
                    model=str(model),
                    load_format="netloader",
                    port=free_port(),
                    extra={"MESH": False},
                )
            )
            for name, order in orders.items()
        }
        for process in workers.values():
            process.say(do="init_device")
        for process in workers.values():
            process.answer(START_S)
            process.ask("load_model", timeout_s=START_S)
            assert process.ask("kind") == "vllm_ascend.worker.worker.NPUWorker"
            assert process.ask("loader") == "netloader.engine.loader.NetLoader"
            assert process.ask("digests") == wanted
            assert "overwritten" not in process.log.read_text()
            lines = process.log.read_text().splitlines()
            (line,) = (line for line in lines if "leave netloader_mesh out of VLLM_PLUGINS" in line)
            assert "vllm_ascend.model_loader.netloader.netloader.ModelNetLoaderElastic" in line


def test_the_names_of_the_document_are_those_of_the_libraries() -> None:
    """Functions of C stand in torch_npu's binary as texts, since it looks them up by name."""
    library = Path(torch_npu.__file__).parent / "lib/libtorch_npu.so"
    binary = library.read_bytes()
    objects = (
        ProcessGroupHCCL,
        ProcessGroupHCCL.Options,
        BarrierOptions,
        torch_npu.npu.Stream,
        Work,
    )
    for name in used(ASCEND):
        if name.startswith("vllm_ascend."):
            # A module. To import it takes as long as vLLM.
            package = Path(str(importlib.metadata.distribution("vllm-ascend").locate_file("")))
            assert package.joinpath(*name.split(".")).with_suffix(".py").is_file(), name
        elif name.startswith("torch_npu."):
            module, _, rest = name.partition(".")
            found: object = import_module(module)
            for part in rest.split("."):
                module = f"{module}.{part}"
                found = getattr(found, part, None) or import_module(module)
        elif name.startswith("torch.ops.npu."):
            assert hasattr(torch.ops.npu, name.rpartition(".")[2]), name
        elif re.fullmatch(r"[a-z][a-z_]+|_[a-z_]+", name):
            assert name.encode() in binary or any(hasattr(one, name) for one in objects), name
        else:
            assert (name.encode() in binary) == (name not in NOT_IN_TORCH_NPU), name


def test_the_plugins_have_the_names_that_the_documents_list() -> None:
    """`docs/howto/ascend.md` says which to list so that vLLM Ascend's loader answers."""
    page = (Path(__file__).parents[2] / "docs/howto/ascend.md").read_text()
    entries = importlib.metadata.distribution("vllm-ascend").entry_points
    (listed,) = (line for line in page.splitlines() if line.startswith("export VLLM_PLUGINS="))
    assert set(listed.partition("=")[2].split(",")) == {
        entry.name for entry in entries if entry.group.startswith("vllm.")
    }
