"""Registers a loader under the same name, when imported, as vLLM Ascend does."""

from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader


@register_model_loader("netloader")
class FakeAscendNetLoader(DummyModelLoader):
    """Not ours."""
