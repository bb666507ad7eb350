"""Operators: those that are emulated compute, the others say their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch_npu
from torch.nn import functional

from fakecann import record

DEVICE = "npu:0"


def test_an_operator_gives_what_the_cpu_gives() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(7, 9, generator=generator) for _ in range(2))
    on_device = (a.to(DEVICE) @ b.to(DEVICE).t()).softmax(-1).to(torch.bfloat16)
    assert on_device.device == torch.device(DEVICE)
    assert torch.equal(on_device.cpu(), (a @ b.t()).softmax(-1).to(torch.bfloat16))


def test_what_it_writes_to_is_the_tensor_itself() -> None:
    tensor = torch.zeros(4, 6, device=DEVICE)
    tensor[:, 2:4] = 5
    tensor.t()[1].add_(1)
    wanted = torch.zeros(4, 6)
    wanted[:, 2:4], wanted[:, 1] = 5, 1
    assert torch.equal(tensor.cpu(), wanted)


@pytest.mark.parametrize("call", ["npu_gelu", "npu_mish", "npu_fast_gelu"])
def test_an_operator_that_is_not_emulated_says_its_name(call: str) -> None:
    with pytest.raises(NotImplementedError, match=call):
        getattr(torch_npu, call)(torch.ones(4, device=DEVICE), **_more(call))


def _more(call: str) -> dict[str, str]:
    return {"approximate": "none"} if call == "npu_gelu" else {}


def test_tensors_of_the_host_do_not_pass_for_the_devices() -> None:
    with pytest.raises(RuntimeError, match="host and the device"):
        torch.ones(4, device=DEVICE) + torch.ones(4)
    # A number is no tensor.
    assert float((torch.ones(4, device=DEVICE) + torch.tensor(1.0)).sum()) == 8


def test_what_ran_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKECANN_RECORD", str(tmp_path / "record"))
    record.start_again()
    torch.ones(3, device=DEVICE).mul(2).mul(3)
    assert (tmp_path / "record").read_text().split().count("aten.mul.Tensor") == 1


def test_norms() -> None:
    x, y, gamma = torch.randn(5, 8), torch.randn(5, 8), torch.randn(8)
    wanted = functional.rms_norm(x, (8,), gamma, eps=1e-5)
    normed, scale = torch_npu.npu_rms_norm(x.to(DEVICE), gamma.to(DEVICE), 1e-5)
    torch.testing.assert_close(normed.cpu(), wanted)
    assert scale.shape == (5, 1)
    normed, _, total = torch_npu.npu_add_rms_norm(
        x.to(DEVICE), y.to(DEVICE), gamma.to(DEVICE), 1e-5
    )
    torch.testing.assert_close(total.cpu(), x + y)
    torch.testing.assert_close(normed.cpu(), functional.rms_norm(x + y, (8,), gamma, eps=1e-5))


def test_swiglu() -> None:
    x = torch.randn(5, 12)
    wanted = functional.silu(x[:, :6]) * x[:, 6:]
    torch.testing.assert_close(torch_npu.npu_swiglu(x.to(DEVICE)).cpu(), wanted)


@pytest.mark.parametrize("neox", [True, False])
def test_rotary_embedding_turns_pairs_by_their_angles(neox: bool) -> None:
    tokens, heads, size = 6, 2, 8
    angles = torch.randn(20, size // 2)
    cache = torch.cat((angles.cos(), angles.sin()), -1)
    positions = torch.randint(0, 20, (tokens,))
    query, key = torch.randn(tokens, heads * size), torch.randn(tokens, size)

    def turned(tensor: torch.Tensor) -> torch.Tensor:
        parts = tensor.view(tokens, -1, size)
        pairs = parts.unflatten(-1, (2, -1)) if neox else parts.unflatten(-1, (-1, 2)).mT
        plane = torch.complex(pairs[..., 0, :], pairs[..., 1, :])
        plane = plane * torch.polar(torch.ones(()), angles[positions])[:, None]
        out = torch.stack((plane.real, plane.imag), -2)
        return (out if neox else out.mT).flatten(-2).flatten(1)

    query_npu, key_npu = query.to(DEVICE), key.to(DEVICE)
    torch_npu._npu_rotary_embedding(
        positions.to(DEVICE), query_npu, key_npu, size, cache.to(DEVICE), neox
    )
    torch.testing.assert_close(query_npu.cpu(), turned(query))
    torch.testing.assert_close(key_npu.cpu(), turned(key))


def test_attention_over_blocks_is_attention_over_the_plain_keys() -> None:
    heads, kv_heads, size, block = 4, 2, 8, 4
    lengths, new = [7, 5], [7, 1]
    table = torch.tensor([[3, 1], [0, 2]], dtype=torch.int32)
    caches = [torch.zeros(4, block, kv_heads, size).to(DEVICE) for _ in range(2)]
    keys = [torch.randn(n, kv_heads, size) for n in lengths]
    values = [torch.randn(n, kv_heads, size) for n in lengths]
    for row, n in enumerate(lengths):
        places = torch.arange(n)
        slots = (table[row][places // block] * block + places % block).to(torch.int32)
        torch_npu._npu_reshape_and_cache(
            keys[row].to(DEVICE), values[row].to(DEVICE), *caches, slots.to(DEVICE)
        )
    query = torch.randn(sum(new), heads, size)
    out, _ = torch_npu.npu_fused_infer_attention_score(
        query.to(DEVICE),
        *(cache.view(4, block, -1) for cache in caches),
        actual_seq_lengths=[7, 8],
        actual_seq_lengths_kv=lengths,
        block_table=table.to(DEVICE),
        num_heads=heads,
        num_key_value_heads=kv_heads,
        scale=size**-0.5,
        input_layout="TND",
        block_size=block,
        sparse_mode=3,
    )
    for row, (n, count) in enumerate(zip(lengths, new, strict=True)):
        mask = torch.ones(count, n, dtype=torch.bool).tril(n - count)
        wanted = functional.scaled_dot_product_attention(
            query[7 * row : 7 * row + count].transpose(0, 1),
            *(t.repeat_interleave(2, 1).transpose(0, 1) for t in (keys[row], values[row])),
            attn_mask=mask,
        )
        torch.testing.assert_close(
            out.cpu()[7 * row : 7 * row + count], wanted.transpose(0, 1), atol=1e-5, rtol=1e-4
        )


def test_attention_with_what_is_not_emulated_is_refused() -> None:
    q = torch.ones(2, 1, 8, device=DEVICE)
    with pytest.raises(NotImplementedError, match="BSH"):
        torch_npu.npu_fused_infer_attention_score(q, q, q, num_heads=1, input_layout="BSH")
