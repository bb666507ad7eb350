"""Random models with real tokenizers, small enough to make in seconds and real enough to serve."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

_TEXT = (
    "A replica that has to be up now asks its peers for the weights they already hold.",
    "The mesh knows who is alive, who is stalled, and who has left without a word.",
    "Bytes travel from device to device, and every chunk is verified when it arrives.",
)


def make_llama(folder: Path, *, seed: int, megabytes: int) -> Path:
    """Write a random Llama of about `megabytes` (bfloat16) and a byte-level BPE tokenizer.

    Equal arguments give equal bytes. Returns `folder`; does nothing when it is complete already.
    """
    ready = folder / ".complete"
    if ready.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    hidden = 1024 if megabytes >= 100 else 512
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    per_layer = hidden * hidden * 3 + 3 * hidden * config.intermediate_size
    embeddings = 2 * config.vocab_size * hidden
    config.num_hidden_layers = max(1, round((megabytes * 1e6 / 2 - embeddings) / per_layer))
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ready.touch()
    return folder


MIXTRAL_EXPERTS = 4


def make_mixtral(folder: Path, *, seed: int) -> Path:
    """Write a random Mixtral of about 4 MB (bfloat16), 4 experts in each of 2 layers.

    Equal arguments give equal bytes. Returns `folder`; does nothing when it is complete already.
    """
    ready = folder / ".complete"
    if ready.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=MIXTRAL_EXPERTS,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = MixtralForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ready.touch()
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
