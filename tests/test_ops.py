"""The plain ops against PyTorch's own, each under both forms of the main_grad rule."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from albert_fast import ops
from albert_fast.attention import Queries
from albert_fast.ops import philox

EDGES = {"mixed": [0, 7, 20, 20, 27, 45, 45], "equal": [0, 15, 30, 45], "one": [0, 45], "empty first": [0, 0, 20, 45]}


def attention_by_loop(qkv, edges):
    out = torch.zeros_like(qkv[:, 0])
    for start, end in pairwise(edges):
        if end > start:
            q, k, v = qkv[start:end].permute(1, 2, 0, 3)
            scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            out[start:end] = (scores @ v).transpose(0, 1)
    return out


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES.keys())
def test_varlen_attention(edges):
    torch.manual_seed(0)
    qkv = torch.randn(45, 3, 2, 6, dtype=torch.float64, requires_grad=True)
    cu_seqlens = torch.tensor(edges, dtype=torch.int32)
    out = ops.varlen_attention(qkv, cu_seqlens, 45)
    expected = attention_by_loop(qkv.detach().requires_grad_(), edges)
    torch.testing.assert_close(out, expected)
    assert torch.autograd.gradcheck(lambda x: ops.varlen_attention(x, cu_seqlens, 45), qkv, fast_mode=True)


def test_varlen_attention_refuses_tokens_of_no_sequence():
    with pytest.raises(ValueError, match="ends at 13 of 20 tokens; put the rest into padding sequences"):
        ops.varlen_attention(torch.randn(20, 3, 2, 8), torch.tensor([0, 13], dtype=torch.int32), 20)


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES.keys())
def test_varlen_attention_of_some_tokens_is_that_of_all_at_these(edges):
    torch.manual_seed(0)
    qkv = torch.randn(45, 3, 2, 6, dtype=torch.float64, requires_grad=True)
    cu_seqlens = torch.tensor(edges, dtype=torch.int32)
    rows = torch.cat((torch.randperm(45)[:14], torch.tensor([45, 45])))  # 45 is no token
    queries = Queries.pack(rows, cu_seqlens, 45)

    def asked(qkv):
        q = qkv[queries.tokens, 0]
        return ops.varlen_attention(qkv[:, 1:], cu_seqlens, 45, q, queries.cu_seqlens)[queries.inverse]

    of_tokens = asked(qkv)[:14]
    expected = ops.varlen_attention(qkv, cu_seqlens, 45)[rows[:14]]
    torch.testing.assert_close(of_tokens, expected)
    scale = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * scale).sum(), qkv)[0] for out in (of_tokens, expected)]
    torch.testing.assert_close(*gradients)


def test_varlen_attention_is_a_sound_custom_op():
    attention, edges = torch.ops.albert_fast.varlen_attention, torch.tensor([0, 9, 20], dtype=torch.int32)
    torch.library.opcheck(
        attention,
        (torch.randn(20, 3, 2, 8, requires_grad=True), None, edges, edges, 11, torch.zeros(48, requires_grad=True)),
    )
    q, kv = torch.randn(6, 2, 8, requires_grad=True), torch.randn(20, 2, 2, 8, requires_grad=True)
    torch.library.opcheck(attention, (kv, q, torch.tensor([0, 2, 5], dtype=torch.int32), edges, 11))


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_linear_cross_entropy(chunk):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((9, 5), (13, 5), (13,)))
    targets, weights = torch.randint(0, 13, (9,)), torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 0.5]).double()
    loss, accuracy = ops.linear_cross_entropy(x, weight, bias, targets, weights, chunk)
    logits = F.linear(x, weight, bias)
    torch.testing.assert_close(
        loss, (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    )
    torch.testing.assert_close(accuracy, ((logits.argmax(1) == targets) * weights).sum() / weights.sum())
    assert torch.autograd.gradcheck(
        lambda *p: 3 * ops.linear_cross_entropy(*p, targets, weights, chunk)[0], (x, weight, bias)
    )


def test_linear_cross_entropy_of_a_target_whose_probability_underflows_is_finite():
    x, weight = torch.tensor([[1.0]], requires_grad=True), torch.linspace(-300, 300, 2000)[:, None]
    loss, _ = ops.linear_cross_entropy(x, weight, torch.zeros(2000), torch.tensor([0]), torch.ones(1))
    expected = F.cross_entropy(F.linear(x, weight), torch.tensor([0]))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, x) for y in (loss, expected)))


def test_linear_cross_entropy_of_no_weight_is_zero_with_zero_gradients():
    x, weight, bias = torch.randn(4, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True), torch.zeros(7)
    loss, accuracy = ops.linear_cross_entropy(x, weight, bias, torch.zeros(4, dtype=torch.int32), torch.zeros(4))
    loss.backward()
    assert loss == accuracy == 0
    assert not x.grad.any()
    assert not weight.grad.any()


def test_a_mask_does_not_depend_on_how_many_rows_are_made_at_a_time(monkeypatch):
    key = torch.tensor([5, 7])
    whole = ops.dropout_keep(key, 3, 50, 21, 0.3)
    monkeypatch.setattr(philox, "ROWS_AT_A_TIME", 16)
    assert torch.equal(ops.dropout_keep(key, 3, 50, 21, 0.3), whole)
    assert ops.dropout_keep(key, 3, 0, 21, 0.3).shape == (0, 21)


CASES = {
    "linear": lambda p: ops.linear(torch.linspace(-1, 1, 12).view(4, 3).requires_grad_(), p[0], p[1]).square().sum(),
    "transposed": lambda p: ops.linear(torch.linspace(-1, 1, 20).view(4, 5), p[0], transposed=True).square().sum(),
    "embedding": lambda p: ops.embedding(torch.tensor([1, 4, 1, 0]), p[0]).square().sum(),
    "layer_norm": lambda p: ops.layer_norm(torch.linspace(-1, 2, 15).view(3, 5), p[1], p[2]).pow(3).sum(),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_main_grad_takes_what_autograd_would_return(case):
    def parameters():
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(s)) for s in ((5, 3), (5,), (5,))]

    returned, accumulated = parameters(), parameters()
    for parameter in accumulated:
        parameter.main_grad = torch.ones_like(parameter)
    for _ in range(2):
        case(returned).backward()
        case(accumulated).backward()
    for a, b in zip(returned, accumulated, strict=True):
        assert b.grad is None
        torch.testing.assert_close(
            b.main_grad - 1, torch.zeros_like(a) if a.grad is None else a.grad, atol=1e-5, rtol=1e-5
        )


def test_auto_follows_the_tensors_not_the_machine(monkeypatch):
    """On a machine with a GPU, a run on its CPU must not give CPU tensors to Triton, which refuses them."""

    def kernel(*_, **__):
        raise ValueError("Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)")

    fused = ("add_post_layer_norm", "add_pre_layer_norm", "gelu_ffn")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ops, "kernel_ops", lambda: ops.Ops("triton", **dict.fromkeys(fused, kernel)))
    auto, plain = ops.get_ops("auto"), ops.Ops()
    x, row = torch.randn(4, 6), torch.randn(6)
    for ours, expected in zip(*(p.add_pre_layer_norm(x, row, x, row, row) for p in (auto, plain)), strict=True):
        assert torch.equal(ours, expected)
    assert torch.equal(auto.gelu_ffn(x, torch.ones(3, 6), row[:3], torch.ones(6, 3)),
                       plain.gelu_ffn(x, torch.ones(3, 6), row[:3], torch.ones(6, 3)))  # fmt: skip
    for name in fused:
        with pytest.raises(ValueError, match="cpu tensor"):
            getattr(auto, name)(SimpleNamespace(is_cuda=True))
    with pytest.raises(ValueError, match="cpu tensor"):  # who asks for Triton gets it
        ops.get_ops("triton").add_pre_layer_norm(x, row, x, row, row)
