"""Load tiny models of many architectures in one vLLM process: from storage, then from that source.

A script, run by `test_architectures.py` in a process of its own, because vLLM's state is global.
For each architecture it prints one line of JSON with everything that may differ between a model
that was loaded and one that was pulled: tensors as loaded and after post-processing, all state
besides tensors (`deep.py`), and vLLM's registries.

`--corrupt` makes the pulled model wrong on purpose, between the pull and vLLM's post-processing:
whoever compares has to see it.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
from torch import nn
from vllm.config import ModelConfig, set_current_vllm_config
from vllm.distributed import (
    destroy_model_parallel,
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.layers.fused_moe.experts.int4_emulation_moe import (
    Int4EmulationTritonExperts,
)
from vllm.model_executor.layers.fused_moe.oracle.int_wna16 import WNA16MoEBackend
from vllm.model_executor.layers.quantization import auto_gptq
from vllm.model_executor.model_loader import base_loader, get_model
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models import ModelRegistry
from vllm.plugins import load_general_plugins
from vllm.v1.worker.cpu_model_runner import _set_torch_accelerator_to_noop

from netloader.config import Config
from netloader.plain import Plain
from netloader.worker.position import Position
from netloader.worker.process import Worker
from netloader.worker.workers import WORKERS
from tests.e2e import deep
from tests.e2e.checkpoints import ARCHITECTURES
from tests.e2e.faults.netloader_faults import broken_after
from tests.e2e.promised import promise_of
from tests.free_ports import free_port

_CHUNK_BYTES: Final = 128 * 1024
"""Tiny models, so tiny chunks: several of each kind, and something to lose half-way."""

_OFFER: Final = "netloader-offer"
"""Name of the thread that makes a source of a worker, and ends when all is said and written."""

_PATIENCE_S: Final = 60.0

_TRIES: Final = 5
"""A busy machine broke one pull in some hundred before anything had arrived."""

_EXPERT_BIASES: Final = "_loaded_expert_biases"
"""The attribute in which vLLM's experts note which of their biases have been loaded."""

Corruption = Callable[[nn.Module], None]


def _corrupt_weight(model: nn.Module) -> None:
    """One bit of one tensor."""
    tensor = max(model.parameters(), key=lambda tensor: tensor.numel())
    tensor.data.view(-1).view(torch.uint8)[5] ^= 1


def _corrupt_set(model: nn.Module) -> None:
    """What a `weight_loader` fills."""
    for module in model.modules():
        loaded = getattr(module, _EXPERT_BIASES, None)
        if loaded is not None:
            loaded ^= {"w13_bias"}


def _corrupt_attribute(model: nn.Module) -> None:
    """A number of a quantisation method, which hangs off a module."""
    method = next(
        method for module in model.modules() if (method := getattr(module, "quant_method", None))
    )
    method.corrupted = 1


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "weight": _corrupt_weight,
    "set": _corrupt_set,
    "attribute": _corrupt_attribute,
}


def main() -> None:
    """Print a line `{"name": ..., ...}` for each architecture, and with `--corrupt`, one more."""
    parser = argparse.ArgumentParser(prog="architectures", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ARCHITECTURES))
    parser.add_argument(
        "--corrupt",
        action="append",
        default=[],
        metavar="NAME:WHAT",
        help=f"WHAT of a pulled NAME: {', '.join(CORRUPTIONS)}",
    )
    parser.add_argument(
        "--processed",
        action="append",
        default=[],
        metavar="NAME",
        help="pull NAME from a source that keeps nothing of what it loaded",
    )
    told = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    load_general_plugins()
    # As vLLM's own CPU worker does.
    _set_torch_accelerator_to_noop()
    init_distributed_environment(1, 0, f"tcp://127.0.0.1:{free_port()}", 0, "gloo")
    names = told.names or ([] if told.corrupt or told.processed else list(ARCHITECTURES))
    for name in names:
        with _prepared(name, told.folder) as folder:
            print(json.dumps({"name": name, **_compare(name, folder)}), flush=True)
    for name in told.processed:
        with _prepared(name, told.folder) as folder:
            found = _compare_processed(name, folder)
            print(json.dumps({"name": f"{name}:processed", **found}), flush=True)
    for pair in told.corrupt:
        name, _, what = pair.partition(":")
        with _prepared(name, told.folder) as folder:
            found = _compare_corrupted(name, folder, CORRUPTIONS[what])
            print(json.dumps({"name": pair, **found}), flush=True)


@contextmanager
def _prepared(name: str, folder: Path) -> Iterator[Path]:
    """The checkpoint of `name` is made, and this vLLM can run it."""
    model_dir = ARCHITECTURES[name].make(folder / name)
    for architecture in json.loads((model_dir / "config.json").read_text())["architectures"]:
        # vLLM would look into the class in a process of its own: ten seconds for each.
        ModelRegistry.register_model(
            architecture, ModelRegistry.models[architecture].load_model_cls()
        )
    with ExitStack() as stack:
        if name == "gptq-moe":
            stack.enter_context(_fake_kernel_for_experts())
        yield model_dir


def _compare(name: str, model_dir: Path) -> dict[str, Any]:
    with ExitStack() as stack:

        def load(label: str, *sources: str) -> _Loaded:
            one = _Loaded(name, model_dir, label, sources)
            stack.callback(one.worker.close)
            return one

        stored = load("stored")
        if not stored.endpoint:
            return {"served": False, "not_a_source": stored.report["not_a_source"]}
        pulled = load("pulled", stored.endpoint)
        fallen = _fallen(lambda: load("fallen", stored.endpoint))
        # Early: the last chunks are of small tensors, whose earlier contents are put back.
        with broken_after(1), _leftovers():
            rebuilt = load("rebuilt", stored.endpoint)
        return {
            "served": True,
            "origins": [one.report["origin"] for one in (stored, pulled, fallen, rebuilt)],
            "fetched_by_fallen": sum(one["nbytes"] for one in fallen.report["deliveries"]),
            "skipped": fallen.report["skipped"],
            "skipped_by_rebuilt": rebuilt.report["skipped"],
            "nbytes": stored.report["nbytes"],
            "compared": {what: len(values) for what, values in stored.state.items()},
            "travelled": sorted(promised(stored)),
            "pulled": stored.differences(pulled),
            "fallen": stored.differences(fallen),
            "rebuilt": stored.differences(rebuilt),
        }


def _fallen(load: Callable[[], _Loaded]) -> _Loaded:
    """A load whose pull breaks off half-way. What was sent need not have arrived when the
    connection breaks, so it is tried until something has."""
    for _ in range(_TRIES):
        with broken_after(3):
            one = load()
        if one.report["deliveries"]:
            break
    return one


def _compare_processed(name: str, model_dir: Path) -> dict[str, Any]:
    """What comes from a source that keeps nothing, against what storage gives."""
    with ExitStack() as stack:

        def load(label: str, *sources: str, keep: str = "no") -> _Loaded:
            one = _Loaded(name, model_dir, label, sources, INT8_CACHE=keep)
            stack.callback(one.worker.close)
            return one

        keeps = load("keeps", keep="dram")
        source = load("source")
        if not source.endpoint:
            pulled = load("pulled", keeps.endpoint)
            return {"not_a_source": source.report["not_a_source"], "pulled": pulled.report}
        replica = load("replica", source.endpoint)
        second = load("second", replica.endpoint)
        both = load("both", source.endpoint, keeps.endpoint)
        fallen = _fallen(lambda: load("fallen", source.endpoint))
        return {
            "layouts": [one.report["layout"] for one in (keeps, source, replica, second)],
            "origins": [one.report["origin"] for one in (source, replica, second, fallen)],
            "skipped": [one.report["skipped"] for one in (replica, second, fallen)],
            "both_from": [
                {source.endpoint: "processed", keeps.endpoint: "loaded"}[delivery["endpoint"]]
                for delivery in both.report["deliveries"]
            ],
            "replica": keeps.differences(replica),
            "second": keeps.differences(second),
            "fallen": keeps.differences(fallen),
        }


def _compare_corrupted(name: str, model_dir: Path, corrupt: Corruption) -> dict[str, Any]:
    stored = _Loaded(name, model_dir, "stored", ())
    with _corrupted(corrupt):
        pulled = _Loaded(name, model_dir, "corrupted", (stored.endpoint,))
    try:
        return {"origin": pulled.report["origin"], "pulled": stored.differences(pulled)}
    finally:
        pulled.worker.close()
        stored.worker.close()


class _Loaded:
    """One model, loaded through the plugin by a worker of its own."""

    def __init__(
        self, name: str, model_dir: Path, label: str, sources: tuple[str, ...], **settings: object
    ) -> None:
        prefix = model_dir.parent / f"{label}."
        extra = {
            "MESH": False,
            "REPORT_PREFIX": str(prefix),
            "REPORT_TENSORS": True,
            "SOURCE": [{"device_id": 0, "sources": list(sources)}],
            # A source that broke would be asked again.
            "SOURCE_TIMEOUT": 0,
            **settings,
        }
        config = EngineArgs(
            model=str(model_dir),
            load_format="netloader",
            model_loader_extra_config=extra,
            skip_tokenizer_init=True,
            enforce_eager=True,
            dtype="bfloat16",
            max_model_len=64,
            **ARCHITECTURES[name].engine,
        ).create_engine_config()
        # Stands for another process: a worker never pulls from itself.
        tiny = Config.load(extra, {}).model_copy(update={"chunk_bytes": _CHUNK_BYTES})
        self.worker = Worker(tiny, Position())
        WORKERS.swap(self.worker)
        with set_current_vllm_config(config):
            # Anew for each: vLLM makes the expert-parallel group only for a model with experts.
            destroy_model_parallel()
            initialize_model_parallel(1, 1)
            model = get_model(vllm_config=config)
        _wait_for_offers()
        self.report = json.loads(Path(f"{prefix}0.json").read_text())
        self.endpoint = str(self.report["endpoint"])
        compilation = config.compilation_config
        registries = {
            "static_forward_context": str(sorted(compilation.static_forward_context)),
            "static_all_moe_layers": str(list(compilation.static_all_moe_layers)),
            "ropes": str(len(rotary_embedding._ROPE_DICT)),
        }
        self.state: dict[str, dict[str, str]] = {
            # As loaded, because oneDNN's packed copies are out of reach, and when ready to run.
            "loaded": self.report["tensors"],
            "tensors": deep.tensors(model),
            "attributes": deep.state(model),
            "registries": registries,
        }
        # Keep the model: its tensors are what the worker serves.
        self.model = model

    def differences(self, other: _Loaded) -> dict[str, list[str]]:
        """Paths of what differs, by kind."""
        return {
            what: deep.differing(values, other.state[what]) for what, values in self.state.items()
        }


def promised(source: _Loaded) -> Mapping[str, Plain]:
    """The attributes that the source's `load_weights` set, as it tells replicas."""
    holding = source.worker.membership.holding("target")
    assert holding is not None
    return promise_of(holding, source.worker.sources.security).attributes


def _wait_for_offers() -> None:
    for thread in threading.enumerate():
        if thread.name == _OFFER:
            thread.join(_PATIENCE_S)
            if thread.is_alive():
                raise TimeoutError(f"{_OFFER} takes more than {_PATIENCE_S:g} s")


@contextmanager
def _corrupted(corrupt: Corruption) -> Iterator[None]:
    """Let what comes from peers be changed after it came, before vLLM processes it further."""
    process = base_loader.process_weights_after_loading

    def corrupted(model: nn.Module, *args: Any) -> None:
        corrupt(model)
        process(model, *args)

    with mock.patch.object(base_loader, "process_weights_after_loading", corrupted):
        yield


@contextmanager
def _fake_kernel_for_experts() -> Iterator[None]:
    """GPTQ experts with biases on any processor: vLLM's own layers, method and post-processing, and
    the kernel of another platform, which is set up and never run. The CPU's kernel takes AMX."""

    def select(*_: object, **__: object) -> tuple[WNA16MoEBackend, type]:
        return WNA16MoEBackend.EMULATION, Int4EmulationTritonExperts

    with mock.patch.object(auto_gptq, "select_wna16_moe_backend", select):
        yield


@contextmanager
def _leftovers() -> Iterator[None]:
    """Let the next load from storage fill nothing, as if no tensor were in the checkpoint."""
    load = DefaultModelLoader.load_weights

    def undone(self: DefaultModelLoader, model: nn.Module, model_config: ModelConfig) -> None:
        before = [(tensor, tensor.detach().clone()) for tensor in model.parameters()]
        load(self, model, model_config)
        for tensor, data in before:
            tensor.data.copy_(data)
        loading.stop()

    loading = mock.patch.object(DefaultModelLoader, "load_weights", undone)
    loading.start()
    yield


if __name__ == "__main__":
    main()
