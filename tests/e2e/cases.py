"""Load models in one vLLM process, as told: one JSON line for each command read and each answer.

A script, run by `hosts.py` in processes of its own, because vLLM's state is global and because the
Hub's settings are read from the environment once. A real server costs half a minute; here each
load has a `Worker` of its own, which is a real member of a real mesh, and vLLM's `get_model` builds
and fills the model. Several such processes share a mesh like several hosts.

    {"do": "load", "name": "a", "model": "/models/one", "extra": {...}, "engine": {...}}
    {"do": "reload", "name": "a", "path": "/models/two"}
    {"do": "close", "names": ["a"]}
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import (
    destroy_model_parallel,
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import (
    base_loader,
    default_loader,
    get_model,
    weight_utils,
)
from vllm.model_executor.model_loader.reload import inplace
from vllm.plugins import load_general_plugins
from vllm.v1.worker.cpu_model_runner import _set_torch_accelerator_to_noop

from netloader.worker.process import Worker
from netloader.worker.workers import WORKERS
from tests.e2e.forks import fork_instead
from tests.free_ports import free_port

_OFFER = "netloader-offer"
"""Name of the thread that makes a source of a worker, and ends when all is said and written."""

_PATIENCE_S = 60.0

_ENGINE = {
    "load_format": "netloader",
    "skip_tokenizer_init": True,
    "enforce_eager": True,
    "dtype": "bfloat16",
    "max_model_len": 64,
    "kv_cache_memory_bytes": 1 << 24,
    "max_num_seqs": 2,
}


class _Opens:
    """Counts how often Python code opens a file of weights. A hook for audits stays for good."""

    def __init__(self) -> None:
        self.count = 0

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(".safetensors"):
            self.count += 1


_OPENS = _Opens()


class Told(TypedDict, total=False):
    """One command."""

    do: str
    name: str
    model: str
    extra: dict[str, object]
    """`--model-loader-extra-config`."""
    engine: dict[str, object]
    """Further arguments of the engine."""
    folder: str
    """Working directory while it is loaded."""
    report: str
    """`REPORT_PREFIX`."""
    slow_s: float
    """Seconds that vLLM's reader takes to open each file of weights. `{report}reading` then exists
    once it has begun."""
    path: str
    """Where to reload from, if not from where the model came from."""
    names: list[str]


@dataclasses.dataclass
class _Seen:
    """What happened while one model was loaded."""

    tensors: dict[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of each tensor as loading left it, before vLLM's post-processing."""
    opened: int = 0
    """How often Python code had opened weight files by then: to compare them, since vLLM's readers
    open them outside of Python."""
    storage: list[str] = dataclasses.field(default_factory=list)
    """Functions of vLLM's that opened files, with the options they were given."""


@dataclasses.dataclass
class _Loaded:
    config: VllmConfig
    model: nn.Module
    """Kept: its tensors are what the worker serves."""
    draft: nn.Module | None
    worker: Worker | None


class Cases:
    """The models of this process."""

    def __init__(self) -> None:
        self._loaded: dict[str, _Loaded] = {}
        self._seen = _Seen()

    def answer(self, told: Told) -> dict[str, Any]:
        """Do one thing. What goes wrong in it is part of the answer."""
        try:
            match told["do"]:
                case "load":
                    return self._load(told)
                case "reload":
                    return self._reload(told["name"], told.get("path"))
                case "close":
                    return self._close(told["names"])
                case other:
                    raise ValueError(f"unknown: {other}")
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            return {"error": type(error).__name__, "message": str(error)}

    def _load(self, told: Told) -> dict[str, Any]:
        prefix = told["report"]
        engine = _ENGINE | told.get("engine", {})
        if engine["load_format"] == "netloader":
            reports = {"REPORT_PREFIX": prefix, "REPORT_TENSORS": True}
            engine["model_loader_extra_config"] = reports | told["extra"]
        with _working_in(told.get("folder")), _slowed(told.get("slow_s", 0.0), Path(prefix)):
            config = EngineArgs(model=told["model"], **engine).create_engine_config()
            one = self._build(config)
        self._loaded[told["name"]] = one
        answer = dataclasses.asdict(self._seen)
        _wait_for_offers()
        holding = one.worker.membership.holding("target") if one.worker is not None else None
        if holding is not None:
            answer["published"] = {"state": holding.state, "content": dict(holding.content)}
        for role, suffix in (("report", ""), ("draft", ".draft")):
            path = Path(f"{prefix}0{suffix}.json")
            if path.exists():
                answer[role] = json.loads(path.read_bytes())
        return answer

    def _build(self, config: VllmConfig) -> _Loaded:
        self._seen = _Seen()
        # Stands for a process of its own: a worker never pulls from itself.
        WORKERS.swap(None)
        draft = None
        try:
            with set_current_vllm_config(config), _watched(self._seen):
                # Anew for each: vLLM makes the expert-parallel group only for a model with experts.
                destroy_model_parallel()
                initialize_model_parallel(1, 1)
                model = get_model(vllm_config=config)
                speculative = config.speculative_config
                drafted = speculative.draft_model_config if speculative is not None else None
                # Who guesses from the prompt alone has the target's config there, and no model.
                if drafted is not None and drafted is not speculative.target_model_config:
                    draft = get_model(vllm_config=_draft_config(config), prefix="draft_model")
        except BaseException:
            worker = WORKERS.swap(None)
            if worker is not None:
                worker.close()
            raise
        return _Loaded(config, model, draft, WORKERS.swap(None))

    def _reload(self, name: str, path: str | None) -> dict[str, Any]:
        """Have vLLM reload a model in place. Tells what its worker says at each tensor."""
        one = self._loaded[name]
        worker = one.worker
        assert worker is not None
        WORKERS.swap(worker)
        states = []
        load_weights = one.model.load_weights

        def told(weights: Iterator[tuple[str, torch.Tensor]]) -> object:
            def passing() -> Iterator[tuple[str, torch.Tensor]]:
                for pair in weights:
                    holding = worker.membership.holding("target")
                    states.append((holding.state, holding.reason) if holding else ("none", ""))
                    yield pair

            return load_weights(passing())

        one.model.load_weights = told
        try:
            with set_current_vllm_config(one.config):
                inplace.reload_weights(one.config, one.model, None, path, True)
        finally:
            del one.model.load_weights
        return {"states": sorted(set(states))}

    def _close(self, names: list[str]) -> dict[str, Any]:
        """Let workers leave their mesh, all at once: each waits until the others have heard."""
        gone = [self._loaded.pop(name) for name in names if name in self._loaded]
        leaving = [
            threading.Thread(target=one.worker.close) for one in gone if one.worker is not None
        ]
        for thread in leaving:
            thread.start()
        for thread in leaving:
            thread.join(_PATIENCE_S)
        return {}


def _draft_config(config: VllmConfig) -> VllmConfig:
    """As vLLM's proposer makes it for a draft that is a model of its own."""
    speculative = config.speculative_config
    return dataclasses.replace(
        config,
        quant_config=None,
        parallel_config=dataclasses.replace(
            speculative.draft_parallel_config, rank=config.parallel_config.rank
        ),
        model_config=speculative.draft_model_config,
    )


@contextmanager
def _watched(seen: _Seen) -> Iterator[None]:
    """Note how files are read, and what is in the model before vLLM processes it further."""
    process, before = base_loader.process_weights_after_loading, _OPENS.count
    openers = {
        name: opener
        for name, opener in vars(default_loader).items()
        if name.endswith("_weights_iterator") and callable(opener)
    }

    def processed(model: nn.Module, *args: Any) -> None:
        # The target comes first; a draft's tensors are in its report.
        if not seen.tensors:
            seen.tensors, seen.opened = _digests(model), _OPENS.count - before
        process(model, *args)

    def noted(name: str, opener: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(opener)
        def opened(hf_weights_files: list[str], *args: Any, **kwargs: Any) -> Any:
            seen.storage.append(f"{name} {json.dumps(kwargs, default=str)}")
            return opener(hf_weights_files, *args, **kwargs)

        return opened

    base_loader.process_weights_after_loading = processed
    for name, opener in openers.items():
        setattr(default_loader, name, noted(name, opener))
    try:
        yield
    finally:
        base_loader.process_weights_after_loading = process
        for name, opener in openers.items():
            setattr(default_loader, name, opener)


@contextmanager
def _slowed(seconds: float, report: Path) -> Iterator[None]:
    """Let storage be slow."""
    before = weight_utils.safe_open

    def slow(*args: Any, **kwargs: Any) -> Any:
        report.with_name(report.name + "reading").touch()
        time.sleep(seconds)
        return before(*args, **kwargs)

    if seconds > 0:
        weight_utils.safe_open = slow
    try:
        yield
    finally:
        weight_utils.safe_open = before


def _digests(model: nn.Module) -> dict[str, str]:
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {
        name: hashlib.sha256(
            tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
        ).hexdigest()
        for name, tensor in tensors
        if tensor.numel()
    }


def _wait_for_offers() -> None:
    for thread in threading.enumerate():
        if thread.name == _OFFER:
            thread.join(_PATIENCE_S)
            if thread.is_alive():
                raise TimeoutError(f"{_OFFER} takes more than {_PATIENCE_S:g} s")


@contextmanager
def _working_in(folder: str | None) -> Iterator[None]:
    before = Path.cwd()
    if folder is not None:
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> None:
    """Answer each line of standard input with one on standard output."""
    if "--forks" in sys.argv:
        fork_instead()
    # vLLM writes its log there as well.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        load_general_plugins()
        # As vLLM's own CPU worker does.
        _set_torch_accelerator_to_noop()
        init_distributed_environment(1, 0, f"tcp://127.0.0.1:{free_port()}", 0, "gloo")
        # vLLM collects garbage twice a load, and looks through all that was imported each time.
        gc.freeze()
        sys.addaudithook(_OPENS.hear)
        cases = Cases()
        for line in sys.stdin:
            print(json.dumps(cases.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
