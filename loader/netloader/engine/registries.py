"""What building a model leaves in vLLM's process-wide tables, and how to take it back.

One case needs this. When a pull died inside a tensor that storage does not fill completely, the
model must be built again. Layers of the first model would then collide with those of the second.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from vllm.config import VllmConfig
from vllm.model_executor.layers import rotary_embedding


@dataclass(frozen=True)
class Registries:
    """The tables as they were before a model was built."""

    tables: tuple[tuple[MutableMapping[Any, Any], frozenset[Any]], ...]
    """Each table, with the keys that it had."""
    moe_layers: tuple[list[str], int]
    """The list, with the length that it had."""

    @classmethod
    def before(cls, vllm_config: VllmConfig) -> Registries:
        """Remember the current state."""
        compilation = vllm_config.compilation_config
        tables = (compilation.static_forward_context, rotary_embedding._ROPE_DICT)
        moe_layers = compilation.static_all_moe_layers
        return cls(
            tuple((table, frozenset(table)) for table in tables), (moe_layers, len(moe_layers))
        )

    def restore(self) -> None:
        """Remove what was added since; earlier registrations stay."""
        for table, had in self.tables:
            for key in table.keys() - had:
                del table[key]
        layers, length = self.moe_layers
        del layers[length:]
