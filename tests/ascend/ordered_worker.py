"""An `npu_worker.Worker` in which two plugins of one name come in an order that a test gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from tests.ascend.commands import arguments, serve
from tests.ascend.npu_worker import Worker


class OrderedWorker(Worker):
    """Plugins are called in `order`, each as `module:function`; vLLM then calls all once more."""

    def __init__(self, order: Sequence[str], **given: Any) -> None:
        for plugin in order:
            module, _, function = plugin.partition(":")
            getattr(import_module(module), function)()
        super().__init__(**given)

    def loader(self) -> str:
        """The class of what vLLM gets when it asks for the loader."""
        from vllm.model_executor.model_loader import get_model_loader

        made = type(get_model_loader(self.wrapper.worker.vllm_config.load_config))
        return f"{made.__module__}.{made.__qualname__}"


def main() -> None:
    channel, given = arguments()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    serve(channel, OrderedWorker(**given).run)


if __name__ == "__main__":
    main()
