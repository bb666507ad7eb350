"""Which shard of the model does every built module hold? Read from the modules, not from flags.

Flags do not tell which shard. vLLM shards experts over data-parallel ranks with and without expert
parallelism, some layers opt out of tensor parallelism, others shard over their own groups. The
built modules do: each layer keeps the rank, size and bounds of its shard, because its
`weight_loader` needs them. Two ranks whose modules agree on these take the same part of a
checkpoint.

The rule goes by the words in an attribute's name (`tp_rank` has two):

- Counted: a word from `_POSITIONS` (rank, shard, partition, start, expert, ...), a group from
  `_GROUPS` (tp, dp, ep, ...), or `size` beside `world` or `group`. The value must be a number, a
  flag, or a small container of these.
- Counted: process groups under any name, by rank and size; integer tensors that map experts
  (`_expert_map`, `log2phy`), by content.
- Not counted: a word from `_NOT_ABOUT_WEIGHTS` (lora, cache, token, max, ...), and a rank beside
  `local`, which numbers devices. Attributes that do not shape weights must not keep equal weights
  apart. Nor may a switch (`use_ep`) whose effect is counted already.
- Followed: objects whose name mentions experts, parallelism or shards (`moe_config`,
  `shard_indices`), `_DEPTH` levels deep. vLLM's own configuration and a checkpoint's are never
  followed: these are flags.
- Attributes of parameters are counted in the same way, but not followed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import nn
from torch.distributed import ProcessGroup

MAX_PARTS = 32
MAX_WORDS = 200
"""Bounds on `Shards.parts`: entries, and characters in a text."""

_GROUPS = frozenset({"tp", "pp", "dp", "ep", "cp", "pcp", "dcp", "etp", "edp", "otp", "odp"})
"""Names that vLLM and its plugins give their groups. Sequence parallelism is not among them: it
splits activations, and layers that load other weights because of it say so themselves."""

_LONG_NAMES = {"tensor": "tp", "pipeline": "pp", "data": "dp", "expert": "ep"}
"""Short names by the word before `parallel`, as in `data_parallel_rank`."""

_POSITIONS = frozenset(
    {"rank", "ranks", "shard", "shards", "partition", "partitions", "parallel", "replica"}
    | {"replicas", "start", "end", "offset", "offsets", "index", "indices", "expert", "experts"}
)

_NOT_ABOUT_WEIGHTS = frozenset(
    {"lora", "cache", "token", "tokens", "max", "seq", "sequence", "sp", "block", "blocks"}
    | {"slot", "window", "graph", "capture", "spec", "lookahead", "device", "routing", "use"}
)

_MAPPING = frozenset({"map", "maps", "mask", "physical", "logical", "local", "global", "placement"})
_MAP_NAMES = frozenset({"log2phy", "phy2log"})
_FOLLOWED = frozenset(
    {"moe", "expert", "experts", "parallel", "shard", "shards", "partition", "partitions"}
    | {"indices", "placement"}
)
_FLAGS = ("vllm.config", "transformers.configuration_utils")
"""Modules that define vLLM's configuration and the base class of checkpoints' ones."""

_DEPTH = 3
_MAX_ITEMS = 4096
"""Items in the largest container that counts."""
_MAX_MAP = 1 << 20
"""Elements in the largest tensor that is taken for a map."""
_MAX_TEXT = 64
"""Characters of a value; longer values appear as a short digest."""
_MODULE = frozenset(vars(nn.Module()))
"""What every module has: parameters, buffers, submodules, hooks, the training flag."""


@dataclass(frozen=True)
class Shards:
    """The shard that a model's modules hold."""

    digest: str
    """32 hex digits over path, class and position of all modules: equal for equal shards."""
    parts: Mapping[str, str]
    """The same in words, by class: `{"RowParallelLinear": "tp 1/2"}`, rank before size, `whole`
    where nothing is divided, variants joined by `|`. For people: at most `MAX_PARTS` entries of
    `MAX_WORDS` characters; the rest appears as a short digest."""
    groups: frozenset[str] = frozenset()
    """Short names of groups whose size or own rank a module knows: `dp`, `ep`, `pcp`."""


def shards(model: nn.Module) -> Shards:
    """Read `model` as it was built. Contents of tensors are not read, except expert maps.

    Call at the same point of every load, best before tensors are filled: `load_weights` may change
    attributes.
    """
    reader = _Reader()
    total = blake2b(digest_size=16)
    words: dict[str, dict[str, None]] = {}
    groups: set[str] = set()
    for path, module in model.named_modules():
        kind = type(module)
        found = reader.held(module)
        rows = (f"{name}={value}" for name, value in sorted(found.items()))
        # The lengths distinguish lists of texts that have the same characters.
        texts = [text.encode() for text in (path, kind.__module__, kind.__qualname__, *rows)]
        total.update(f"{[len(text) for text in texts]}".encode() + b"".join(texts))
        if found:
            words.setdefault(kind.__name__, {})[_words(found)] = None
            groups.update(*map(_groups, found))
    parts = _bounded({name: list(variants) for name, variants in words.items()})
    return Shards(total.hexdigest(), parts, frozenset(groups))


def held(module: nn.Module) -> dict[str, str]:
    """The counted values of one module without its submodules: dotted path to value, as text."""
    return _Reader().held(module)


@dataclass
class _Reader:
    """Reads the modules of one model. Reads an object once, however many modules refer to it."""

    _known: dict[tuple[int, int], tuple[object, dict[str, str]]] = field(default_factory=dict)
    """By id and remaining depth. Holds the object, so that no other object gets its id."""

    def held(self, module: nn.Module) -> dict[str, str]:
        own = ((name, value) for name, value in vars(module).items() if name not in _MODULE)
        found = self._read(own, _DEPTH)
        found |= self._read(module.named_buffers(recurse=False), 0)
        for name, parameter in module.named_parameters(recurse=False):
            marks = self._read(vars(parameter).items(), 0)
            found |= {f"{name}:{key}": text for key, text in marks.items()}
        return found

    def _read(self, items: Iterable[tuple[str, object]], depth: int) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in items:
            rule = _rule(name)
            text = _text(value, rule)
            if text is not None:
                found[name.lstrip("_")] = text
            elif rule.followed and depth > 0 and _is_followed(value):
                inner = self._object(value, depth - 1)
                found |= {f"{name}.{key}": text for key, text in inner.items()}
        return found

    def _object(self, value: object, depth: int) -> dict[str, str]:
        key = id(value), depth
        if key not in self._known:
            self._known[key] = value, self._read(_attributes(value), depth)
        return self._known[key][1]


@dataclass(frozen=True, slots=True)
class _NameRule:
    """What an attribute's name says about its value."""

    counted: bool
    """A number here is a position."""
    maps: bool
    """An integer tensor here maps experts."""
    followed: bool
    """An object here holds positions."""


@lru_cache(maxsize=65536)
def _rule(name: str) -> _NameRule:
    words = frozenset(name.lower().strip("_").split("_"))
    if words & _NOT_ABOUT_WEIGHTS or ("local" in words and words & {"rank", "ranks"}):
        return _NameRule(counted=False, maps=False, followed=False)
    sized = "size" in words and words & {"world", "group"}
    experts = words & {"expert", "experts"}
    return _NameRule(
        counted=bool(words & _POSITIONS or words & _GROUPS or sized),
        maps=bool((experts and words & _MAPPING) or words & _MAP_NAMES),
        followed=bool(words & _FOLLOWED or words == {"quant", "method"}),
    )


def _text(value: object, rule: _NameRule) -> str | None:
    """A position as text; None if `value` is not one."""
    if isinstance(value, torch.Tensor):
        return _content(value) if rule.maps and not isinstance(value, nn.Parameter) else None
    group = _group(value)
    if group is not None:
        return group
    if not rule.counted or value is None:
        return None
    text = _plain(value)
    return text if text is None or len(text) <= _MAX_TEXT else _short(text)


def _plain(value: object) -> str | None:
    """Numbers, flags and containers of them in one spelling; None if anything else is inside."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, (range, slice)):
        return f"{value.start}:{value.stop}:{value.step}"
    if isinstance(value, (list, tuple, set, frozenset)) and len(value) <= _MAX_ITEMS:
        items = [_plain(item) for item in value]
    elif isinstance(value, dict) and len(value) <= _MAX_ITEMS:
        items = [_pair(key, item) for key, item in value.items()]
    else:
        return None
    texts = [text for text in items if text is not None]
    if len(texts) != len(items) or not texts:
        return None
    return f"[{' '.join(texts if isinstance(value, (list, tuple)) else sorted(texts))}]"


def _pair(key: object, value: object) -> str | None:
    name, text = key if isinstance(key, str) else _plain(key), _plain(value)
    return None if name is None or text is None else f"{name}={text}"


def _group(value: object) -> str | None:
    """Rank and size of torch's groups, and of vLLM's coordinators, known by their attributes."""
    # Nearly all values have one of these types, and the check for torch's group is slow.
    if value is None or isinstance(value, (int, str, float, tuple, list, dict, set, nn.Module)):
        return None
    if isinstance(value, ProcessGroup):
        return f"{value.rank()}/{value.size()}"
    own = getattr(value, "__dict__", {})
    rank, size = own.get("rank_in_group"), own.get("world_size")
    return f"{rank}/{size}" if isinstance(rank, int) and isinstance(size, int) else None


def _content(tensor: torch.Tensor) -> str | None:
    """A map of experts by content, or by shape on the meta device. None if it is not a map."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.numel() > _MAX_MAP:
        return None
    shape = list(tensor.shape)
    if tensor.is_meta:
        return f"{shape}"
    values = tensor.detach().to("cpu", torch.int64).contiguous()
    return f"{shape} {_short(values.numpy().tobytes())}"


@lru_cache(maxsize=65536)
def _groups(path: str) -> frozenset[str]:
    """The groups whose rank or size an attribute gives."""
    words = frozenset(re.split(r"[_.:]", path.lower()))
    if not words & {"rank", "size", "group"}:
        return frozenset()
    long = {short for name, short in _LONG_NAMES.items() if {name, "parallel"} <= words}
    return (words & _GROUPS) | long


def _is_followed(value: object) -> bool:
    """Whether an object may describe a layer: not a module, a function or flags."""
    kind = type(value)
    if isinstance(value, (nn.Module, type)):
        return False
    if kind.__module__ == "builtins" or kind.__module__.startswith("torch."):
        return False
    return not any(base.__module__.startswith(_FLAGS) for base in kind.__mro__)


def _attributes(value: object) -> list[tuple[str, object]]:
    own = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        # An object with slots has no `__dict__`.
        for part in dataclasses.fields(value):
            own.setdefault(part.name, getattr(value, part.name, None))
    return list(own.items())


def _words(found: Mapping[str, str]) -> str:
    """How the weights are divided, each division once: `tp 1/2, ep 0/4, experts 2 of 8`."""
    said: dict[str, None] = {}
    for name, value in found.items():
        head, _, last = name.replace(":", ".").rpartition(".")
        if last.endswith("_rank") and last != "global_rank":
            size = found.get(f"{name.removesuffix('rank')}size")
            if size is not None and size not in ("0", "1"):
                said[f"{last.removesuffix('_rank')} {value}/{size}"] = None
        elif last.endswith("_group") and "/" in value and not value.endswith("/1"):
            said[f"{last.removesuffix('_group')} {value}"] = None
        elif last == "local_num_experts" and not head:
            total = found.get(name.replace("local_num", "global_num"), "?")
            if total != value:
                said[f"experts {value} of {total}"] = None
        elif last in ("expert_map", "log2phy") and not head:
            said[f"{last} {value.rpartition(' ')[2]}"] = None
    return ", ".join(said) or "whole"


def _bounded(words: Mapping[str, Sequence[str]]) -> dict[str, str]:
    parts: dict[str, str] = {}
    rest: list[str] = []
    for name, variants in words.items():
        text = " | ".join(variants)
        if len(parts) < MAX_PARTS - 1:
            parts[name[:MAX_WORDS]] = _cut(text)
        else:
            rest.append(f"{name}: {text}")
    if rest:
        parts["others"] = _cut("; ".join(rest))
    return parts


def _cut(text: str) -> str:
    if len(text) <= MAX_WORDS:
        return text
    mark = f"... {_short(text)}"
    return text[: MAX_WORDS - len(mark)] + mark


def _short(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return blake2b(data, digest_size=8).hexdigest()
