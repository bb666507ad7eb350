"""What of a config decides which tensors a worker holds."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from netloader.errors import IdentityError
from netloader.identity.model_config import parts, says_something

LLAMA = transformers.LlamaConfig(hidden_size=64, num_hidden_layers=2).to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"use_cache": False},
        {"eos_token_id": 5, "bos_token_id": [1, 2], "pad_token_id": None},
        {"image_token_id": 7, "image_token_index": 9},
        {"initializer_range": 0.03},
        {"id2label": {"0": "x"}, "label2id": {"x": 0}},
        {"transformers_version": "9.9"},
        {"torch_dtype": "float16", "dtype": "float16"},
        {"temperature": 0.7, "top_p": 0.9, "max_length": 1},
        {"_name_or_path": "/elsewhere", "_commit_hash": "b" * 40},
        {"auto_map": {"AutoConfig": "org/name--configuration.Config"}},
        {"sliding_window": 4096},
        {"attention_dropout": 0.1},
        {"architectures": ["Other"]},
        {"unknown_to_everybody": None},
    ],
)
def test_what_no_tensor_depends_on_does_not_count(change: dict[str, object]) -> None:
    assert parts(LLAMA | change) == parts(LLAMA)


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ({"hidden_size": 65}, "hidden_size", "65"),
        ({"rms_norm_eps": 0.01}, "rms_norm_eps", "0.01"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_parameters.rope_theta", "500000.0"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.bits", "4"),
        ({"text_config": {"head_dim": 7}}, "text_config.head_dim", "7"),
        ({"unknown_to_everybody": 1}, "unknown_to_everybody", "1"),
        ({"layer_types": ["a", "b"]}, "layer_types", '["a","b"]'),
        ({"pretraining_tp": 2}, "pretraining_tp", "2"),
    ],
)
def test_everything_else_counts_by_its_dotted_key(
    change: dict[str, object], key: str, value: str
) -> None:
    assert parts(LLAMA | change)[key] == value != parts(LLAMA).get(key)


def test_ignored_keys_are_ignored_at_every_depth() -> None:
    one = {"text_config": {"eos_token_id": 1, "layers": [{"use_cache": True, "size": 3}]}}
    other = {"text_config": {"eos_token_id": 2, "layers": [{"use_cache": False, "size": 3}]}}
    assert parts(one) == parts(other) == {"text_config.layers": '[{"size":3}]'}


def test_key_that_only_ends_like_an_ignored_one_counts() -> None:
    assert says_something("num_token_idsx")
    assert says_something("my_dropout_rate")
    assert not says_something("decoder_start_token_id")


def test_what_the_operator_adds_to_the_quantisation_counts() -> None:
    assert parts({}, {"bits": 4}) == {"quantization.added.bits": "4"}
    assert parts({}, None) == {}


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Inner:
    size: int


def test_plain_data_of_every_kind_is_compared() -> None:
    found = parts(
        {
            "tuple": (1, 2),
            "set": {"b", "a"},
            "enum": Colour.RED,
            "dataclass": Inner(3),
            "dtype": "ignored",
            "torch_type": torch.bfloat16,
            "config": transformers.LlamaConfig(hidden_size=64),
            "ordered": OrderedDict(a=1),
            "big": 1 << 70,
        }
    )
    assert found["tuple"] == "[1,2]"
    assert found["set"] == '["a","b"]'
    assert found["enum"] == '"red"'
    assert found["dataclass.size"] == "3"
    assert found["torch_type"] == '"bfloat16"'
    assert found["config.hidden_size"] == "64"
    assert found["ordered.a"] == "1"
    assert found["big"] == str(1 << 70)


def test_an_object_is_never_compared_by_its_text() -> None:
    with pytest.raises(IdentityError, match=r"config: a\.b is a object"):
        parts({"a": {"b": object()}})
    with pytest.raises(IdentityError, match="nested too deeply"):
        deep: dict[str, object] = {}
        deep["again"] = deep
        parts(deep)


def test_long_values_travel_as_their_digest_and_still_differ() -> None:
    one, other = (parts({"modules": [f"layer{n}" for n in range(end)]}) for end in (900, 901))
    assert one["modules"].startswith("(900 entries, digest ")
    assert one != other


def test_a_huge_config_fits_into_an_advert_and_every_key_still_counts() -> None:
    huge: dict[str, object] = {f"some_key_{number}": number for number in range(5_000)}
    found = parts(huge)
    assert sum(len(key) + len(text) for key, text in found.items()) < 3_000
    for number in (0, 2_500, 4_999):
        assert parts(huge | {f"some_key_{number}": -1}) != found


@given(st.dictionaries(st.text("abc", min_size=1), st.integers() | st.text() | st.floats()))
def test_equal_if_and_only_if_the_values_are(values: dict[str, object]) -> None:
    for key in values:
        assert parts(values) == parts(dict(reversed(values.items())))
        if says_something(key):
            assert parts(values | {key: ["other"]}) != parts(values)
