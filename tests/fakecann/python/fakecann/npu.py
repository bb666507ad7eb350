"""Operators that torch_npu and ATB add to torch's: the few that a dense decoder needs,
W8A8 layers included.

Written in plain torch for host tensors, after what torch_npu documents of them. Every other one is
refused by its name when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from fakecann.fallback import KEY, run

STAY: Final = (
    "npu_format_cast",
    "_npu_format_cast",
    "get_npu_format",
    "get_storage_size",
    "copy_memory_",
    "npu_change_data_ptr",
    "npu_reshape",
    "set_op_timeout_ms",
)
"""First words of operators of torch_npu that compute nothing: they copy, and Identity converts."""

_libraries: list[torch.library.Library] = []


def install() -> None:
    """Register what is emulated and the refusal of what is not."""
    # ATB's operators come with a library of their own, which vllm-ascend loads in a worker.
    from torch_npu.op_plugin.atb._atb_ops import _register_atb_extensions

    _register_atb_extensions()
    names = torch._C._dispatch_get_all_op_names()
    for namespace in ("npu", "atb"):
        library = torch.library.Library(namespace, "IMPL")
        _libraries.append(library)
        for full_name in names:
            name = full_name.removeprefix(f"{namespace}::")
            if name == full_name or name.startswith(STAY):
                continue
            if torch._C._dispatch_has_kernel_for_dispatch_key(full_name, KEY):
                library.impl(name, _implementation(full_name), KEY, allow_override=True)


def _implementation(full_name: str) -> Callable[..., Any]:
    function = EMULATED.get(full_name)

    def emulated(*args: Any, **kwargs: Any) -> Any:
        return run(full_name, function, args, kwargs)

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"fakecann: operator {full_name} is not emulated")

    return refused if function is None else emulated


def rms_norm(
    x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """x / rms(x) * gamma over the last dimension, in float32; and 1 / rms(x)."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * scale * gamma.float()).to(x.dtype), scale


def add_rms_norm(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`rms_norm` of x1 + x2, and that sum."""
    total = x1 + x2
    normed, scale = rms_norm(total, gamma, epsilon)
    return normed, scale, total


def swiglu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """silu of the first half times the second half."""
    gate, up = x.float().chunk(2, dim)
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)


def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool,
) -> None:
    """Rotate query and key in place. [tokens, heads * head_size]; cache [positions, head_size]."""
    rows = cos_sin_cache[positions.flatten().long()].float()
    cos, sin = (half[:, None, :] for half in rows.chunk(2, -1))
    for tensor in (query, key):
        heads = tensor.view(tensor.shape[0], -1, head_size)
        if is_neox_style:
            first, second = heads.float().chunk(2, -1)
            turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
        else:
            first, second = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
            pairs = (first * cos - second * sin, second * cos + first * sin)
            turned = torch.stack(pairs, -1).flatten(-2)
        heads.copy_(turned)


def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_indices: torch.Tensor,
) -> None:
    """Put each token's key and value into its slot: [blocks, block_size, heads, size]. -1: none."""
    slots = slot_indices.long()
    used = slots >= 0
    count = slots.shape[0]
    for new, cache in ((key, key_cache), (value, value_cache)):
        cache.flatten(0, 1)[slots[used]] = new[:count][used]


def matmul_add_fp32(x: torch.Tensor, weight: torch.Tensor, c: torch.Tensor) -> None:
    """c += x^T @ weight, in float32."""
    c.add_(x.float().t() @ weight.float())


def fused_infer_attention_score(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    actual_seq_lengths: Sequence[int] | None = None,
    actual_seq_lengths_kv: Sequence[int] | None = None,
    block_table: torch.Tensor | None = None,
    num_heads: int = 1,
    num_key_value_heads: int = 0,
    scale: float = 1.0,
    input_layout: str = "BSH",
    sparse_mode: int = 0,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of sequences that lie one behind the other ("TND"), keys plain or in blocks.

    `actual_seq_lengths` holds the ends of the sequences in `query` [tokens, heads, size];
    `actual_seq_lengths_kv` the ends in `key`, or with a block table the lengths. Sparse mode 0 sees
    every key, 3 those up to the query. Raises `NotImplementedError` for what else there is.
    """
    if input_layout != "TND" or sparse_mode not in (0, 3):
        raise NotImplementedError(
            f"fakecann: attention with layout {input_layout} and sparse mode {sparse_mode}"
        )
    given = {name for name, value in others.items() if value is not None}
    unknown = sorted(given - _ATTENTION_IGNORES)
    if unknown:
        raise NotImplementedError(f"fakecann: attention with {', '.join(unknown)}")
    assert actual_seq_lengths is not None and actual_seq_lengths_kv is not None
    out = torch.zeros_like(query)
    start = start_kv = 0
    # There may be more lengths than sequences: a batch is padded.
    ends = zip(actual_seq_lengths, actual_seq_lengths_kv, strict=False)
    for number, (end, end_kv) in enumerate(ends):
        if block_table is None:
            keys, values = key[start_kv:end_kv], value[start_kv:end_kv]
            start_kv = end_kv
        else:
            keys, values = (
                _from_blocks(cache, block_table[number], end_kv, num_key_value_heads)
                for cache in (key, value)
            )
        if end > start:
            out[start:end] = _attention(query[start:end], keys, values, scale, sparse_mode == 3)
        start = end
    return out, torch.zeros(1)


_ATTENTION_IGNORES: Final = frozenset(
    [
        *("atten_mask", "block_size", "pre_tokens", "next_tokens", "inner_precise"),
        *("softmax_lse_flag", "antiquant_mode", "key_antiquant_mode", "value_antiquant_mode"),
        "query_quant_mode",
    ]
)
"""Arguments that the sparse modes above make meaningless, or that are numbers with a default."""


def _from_blocks(
    cache: torch.Tensor, blocks: torch.Tensor, length: int, heads: int
) -> torch.Tensor:
    """The first `length` tokens of a sequence: [length, heads, size]."""
    block_size = cache.shape[1]
    rows = cache[blocks[: -(-length // block_size)].long()].flatten(0, 1)
    return rows.reshape(rows.shape[0], heads, -1)[:length]


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool
) -> torch.Tensor:
    """[n, heads, size] against [m, kv_heads, size]; the last query sees the last key."""
    group = query.shape[1] // key.shape[1]
    wide_key, wide_value = (t.float().repeat_interleave(group, 1) for t in (key, value))
    scores = torch.einsum("nhd,mhd->hnm", query.float(), wide_key) * scale
    if causal:
        n, m = scores.shape[1:]
        hidden = torch.ones(n, m, dtype=torch.bool).triu(m - n + 1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), wide_value).to(query.dtype)


def quantize(
    x: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    dtype: int,
    axis: int = 1,
    div_mode: bool = True,
) -> torch.Tensor:
    """round(x * scales + zero_points) as int8, with scales of the last dimension.

    Raises `NotImplementedError` for another dimension, for division and for other types.
    """
    if axis not in (-1, x.dim() - 1) or div_mode or dtype not in _EIGHT_BITS:
        raise NotImplementedError(
            f"fakecann: quantize with axis {axis}, div_mode {div_mode}, type {dtype}"
        )
    moved = x.float() * scales.float()
    if zero_points is not None:
        moved += zero_points.float()
    return moved.round().clamp(-128, 127).to(torch.int8)


def dynamic_quant(
    x: torch.Tensor, *, dst_type: int | None = None, **others: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row by a scale of its own, so that its largest value becomes 127; and the scales."""
    given = sorted(name for name, value in others.items() if value not in (None, "pertoken"))
    if given or dst_type not in (None, *_EIGHT_BITS):
        raise NotImplementedError(f"fakecann: dynamic_quant to {dst_type} with {', '.join(given)}")
    scales = x.float().abs().amax(-1) / 127
    quantised = (x.float() / scales.clamp(min=1e-12).unsqueeze(-1)).round().to(torch.int8)
    return quantised, scales


def quant_matmul(
    x1: torch.Tensor,
    x2: torch.Tensor,
    scale: torch.Tensor,
    *,
    pertoken_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    output_dtype: int | None = None,
    **others: Any,
) -> torch.Tensor:
    """(x1 @ x2 + bias) * scale of each column * pertoken_scale of each row, from int8.

    The sums of products are exact. Raises `NotImplementedError` for other arguments and types.
    """
    given = sorted(name for name, value in others.items() if value is not None)
    if given or output_dtype not in _FLOATS or {x1.dtype, x2.dtype} != {torch.int8}:
        raise NotImplementedError(
            f"fakecann: quant_matmul of {x1.dtype} and {x2.dtype} to type {output_dtype} with "
            f"{', '.join(given)}"
        )
    product = x1.double() @ x2.double()
    if bias is not None:
        product += bias.double()
    product *= scale.double()
    if pertoken_scale is not None:
        product *= pertoken_scale.double().unsqueeze(-1)
    return product.to(_FLOATS[output_dtype])


_EIGHT_BITS: Final = (1, 12)
"""c10's numbers of int8 and qint8."""

_FLOATS: Final[dict[int | None, torch.dtype]] = {
    5: torch.float16,
    6: torch.float32,
    15: torch.bfloat16,
}
"""By c10's number."""


def top_k_top_p(
    logits: torch.Tensor, p: torch.Tensor | None = None, k: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits [rows, words] with -inf for what lies outside of the k best, or of probability p."""
    ordered, places = logits.float().sort(-1, descending=True)
    if k is not None:
        ranks = torch.arange(ordered.shape[-1])
        ordered = ordered.masked_fill(ranks >= k[:, None], float("-inf"))
    if p is not None:
        share = ordered.softmax(-1)
        before = share.cumsum(-1) - share
        ordered = ordered.masked_fill(before > p[:, None], float("-inf"))
    return torch.empty_like(ordered).scatter_(-1, places, ordered).to(logits.dtype)


EMULATED: Final[dict[str, Callable[..., Any]]] = {
    "npu::npu_rms_norm": rms_norm,
    "npu::npu_add_rms_norm": add_rms_norm,
    "npu::npu_swiglu": swiglu,
    "npu::npu_fused_infer_attention_score": fused_infer_attention_score,
    "npu::npu_top_k_top_p": top_k_top_p,
    "npu::npu_quantize": quantize,
    "npu::npu_dynamic_quant": dynamic_quant,
    "npu::npu_quant_matmul": quant_matmul,
    "atb::_npu_rotary_embedding": rotary_embedding,
    "atb::_npu_reshape_and_cache": reshape_and_cache,
    "atb::_npu_matmul_add_fp32": matmul_add_fp32,
}
"""What is emulated, by the operator's full name."""
