"""A random Llama with a tokenizer, real enough to be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TEXT = (
    "A replica that has to be up now asks its peers for the weights they already hold.",
    "Bytes travel from device to device, and every chunk is verified when it arrives.",
)
HIDDEN = 512


def write(folder: Path, nbytes: int, *, hidden: int = HIDDEN) -> Path:
    """Write a bfloat16 checkpoint of about `nbytes` into `folder`. It has as many layers as that
    takes; `hidden`, a multiple of 64, gives their size."""
    # Only this benchmark needs them, and they take seconds to import.
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
    make_tokenizer: Any = PreTrainedTokenizerFast  # These libraries are only partly annotated.
    make_model: Any = LlamaForCausalLM
    fast = make_tokenizer(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    inner = hidden * 11 // 4
    layer = 2 * (3 * hidden * hidden + 3 * hidden * inner)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=max(1, nbytes // layer),
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    make_model(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
