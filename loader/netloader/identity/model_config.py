"""A model's config in named parts: those that can decide which tensors a worker holds.

Two hosts rarely have the same config to the letter. An operator overrides generation defaults, a
repository gets new token ids, two releases of transformers write different defaults. None of that
concerns weights, and a reviewed list says so (`_SAYS_NOTHING`). Every key not on the list counts,
known or not. Values are compared as JSON, so a refusal can name key and values.

Pure: takes plain data. Anything else is an `IdentityError`, because the `str()` of an object may
hold an address and must never be compared.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from hashlib import blake2b
from typing import Final

import orjson

from netloader.errors import IdentityError

_MAX_VALUE: Final = 96
"""Limit of JSON characters per key. A list of a thousand module names travels as its digest."""

_MAX_TOTAL: Final = 2600
"""Limit of characters in all keys and values together. An advert has 8 KiB for two models and
everything else; parts beyond this limit travel only as a digest."""

_REST: Final = "other keys"
"""The part that stands for all keys beyond `_MAX_TOTAL`."""

_MAX_DEPTH: Final = 12

_SAYS_NOTHING: Final = frozenset(
    {
        # Where the config came from, and what wrote it.
        "_name_or_path",
        "name_or_path",
        "_commit_hash",
        "transformers_version",
        "_diffusers_version",
        "vllm_version",
        "auto_map",
        # Covered by a separate part, or decided by a vLLM flag.
        "architectures",
        "dtype",
        "torch_dtype",
        # How transformers would run the model; vLLM has its own layers.
        "use_cache",
        "return_dict",
        "return_dict_in_generate",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "torchscript",
        "tf_legacy_loss",
        "use_bfloat16",
        "gradient_checkpointing",
        "_attn_implementation",
        "_attn_implementation_internal",
        "attn_implementation",
        "_experts_implementation",
        "chunk_size_feed_forward",
        # Which earlier tokens attention sees: affects masks and the size of the KV cache.
        "sliding_window",
        "use_sliding_window",
        # Training.
        "initializer_range",
        "initializer_factor",
        "init_std",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "hidden_dropout",
        "hidden_dropout_prob",
        "activation_dropout",
        "classifier_dropout",
        "embd_pdrop",
        "attn_pdrop",
        "resid_pdrop",
        "dropout",
        "embedding_dropout",
        "layerdrop",
        "router_aux_loss_coef",
        "aux_loss_alpha",
        "seq_aux",
        "output_router_logits",
        "router_jitter_noise",
        # Labels. Their number shapes the classifier, and the tensors themselves show that.
        "id2label",
        "label2id",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "tokenizer_class",
        "prefix",
        # Generation.
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "repetition_penalty",
        "encoder_no_repeat_ngram_size",
        "length_penalty",
        "no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
        "generation_config",
    }
)
"""Keys, at any depth, that no tensor depends on. Reviewed against vLLM 0.32's model classes."""

_TOKEN = re.compile(r"(^|_)token_(id|ids|index)$|(^|_)forced_decoder_ids$")
"""Ids of special tokens (`eos_token_id`, `image_token_index`): they pick rows but make none."""


def parts(config: Mapping[str, object], quantization: object = None) -> dict[str, str]:
    """The parts of a config that count: dotted key to JSON, sorted by key.

    `quantization`: what the operator added to the checkpoint's own quantisation config. A key whose
    value is null counts as missing. Long values become their digest, and all parts that do not fit
    into an advert become one digest together.

    Raises `IdentityError` naming a key whose value is not plain data.
    """
    found = dict(sorted(_flat("", dict(config), 0)))
    if quantization is not None:
        found |= dict(sorted(_flat("quantization", {"added": quantization}, 0)))
    return _fitted(found)


def says_something(key: str) -> bool:
    """Whether a tensor can depend on the value of this key."""
    return key not in _SAYS_NOTHING and _TOKEN.search(key) is None


def _flat(path: str, value: object, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _MAX_DEPTH:
        raise IdentityError(f"config: {path} is nested too deeply to be compared")
    plain = _plain(path, value)
    if not isinstance(plain, dict):
        if plain is not None:
            yield path, _text(_whole(path, plain, depth))
        return
    if not plain and path:
        yield path, "{}"
    for key, inner in plain.items():
        if says_something(str(key)):
            yield from _flat(f"{path}.{key}" if path else str(key), inner, depth + 1)


def _whole(path: str, value: object, depth: int) -> object:
    """The value as plain data at every depth."""
    if depth > _MAX_DEPTH:
        raise IdentityError(f"config: {path} is nested too deeply to be compared")
    plain = _plain(path, value)
    if isinstance(plain, dict):
        return {
            str(key): _whole(f"{path}.{key}", inner, depth + 1)
            for key, inner in plain.items()
            if says_something(str(key))
        }
    if isinstance(plain, list):
        return [_whole(f"{path}[{at}]", one, depth + 1) for at, one in enumerate(plain)]
    return plain


def _plain(path: str, value: object) -> object:
    """One step towards JSON: the outermost level of `value` as plain data."""
    match value:
        case enum.Enum():
            return _plain(path, value.value)
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return dict(value)
        case list() | tuple():
            return list(value)
        case set() | frozenset():
            return sorted(value, key=lambda one: (type(one).__name__, str(one)))
        case _ if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
    for dump in ("to_dict", "model_dump"):
        made = getattr(value, dump, None)
        if callable(made) and not isinstance(value, type):
            return _plain(path, made())
    # torch's dtypes are the only objects in configs, and this file does not import torch.
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    raise IdentityError(
        f"config: {path} is a {type(value).__qualname__}, which cannot be compared with a peer's"
    )


def _text(value: object) -> str:
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:
        # An integer of more than 64 bits.
        text = repr(value)
    if len(text) <= _MAX_VALUE:
        return text
    size = f"{len(value)} entries, " if isinstance(value, (list, dict)) else ""
    return f"({size}digest {_digest(text)})"


def _fitted(found: dict[str, str]) -> dict[str, str]:
    room = _MAX_TOTAL
    kept: dict[str, str] = {}
    rest: dict[str, str] = {}
    for key, text in found.items():
        room -= len(key) + len(text)
        (kept if room >= 0 else rest)[key] = text
    if rest:
        digest = _digest(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS).decode())
        kept[_REST] = f"({len(rest)} keys, digest {digest})"
    return kept


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
