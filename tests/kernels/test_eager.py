"""Ops past the dispatcher: the same bits and gradients, and to whoever watches they are ops as before."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from albert_fast.kernels.eager import watched
from albert_fast.ops import get_ops, varlen_attention


class Seen(TorchDispatchMode):
    """Inside `with`, notes the names of our ops."""

    def __init__(self) -> None:
        super().__init__()
        self.ours: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.startswith("albert_fast::"):
            self.ours.append(func._schema.name.removeprefix("albert_fast::"))
        return func(*args, **(kwargs or {}))


def parameter(*shape: int, main_grad: bool = True) -> torch.Tensor:
    weight = torch.randn(shape).requires_grad_()
    if main_grad:
        weight.main_grad = torch.zeros(shape)
    return weight


def step(main_grad: bool) -> list[torch.Tensor]:
    """Outputs and gradients of every kernel in turn, from the same numbers each time."""
    ops, key = get_ops("triton"), torch.tensor([7, 3])
    torch.manual_seed(0)
    x, word = torch.randn(9, 16, requires_grad=True), torch.randn(9, 16, requires_grad=True)
    vectors = bias, scale, shift, up_bias, word_bias, joint_bias = [
        parameter(n, main_grad=main_grad) for n in (16, 16, 16, 24, 11, 48)
    ]
    matrices = up, square, positions, types, words, joint = [
        parameter(n, 16, main_grad=main_grad) for n in (24, 16, 12, 2, 11, 48)
    ]
    down = parameter(16, 24, main_grad=main_grad)
    ids, dropout = torch.arange(9, dtype=torch.int32), dict(dropout=0.1, key=key, site=1)
    states = ops.embed_layer_norm(word, ids, ids % 2, positions, types, scale, shift, **dropout)
    qkv = ops.linear(states, joint, joint_bias).view(9, 3, 2, 8)
    attended = varlen_attention(qkv, torch.tensor([0, 4, 9], dtype=torch.int32), 5, bias=joint_bias).flatten(1)
    states, residual = ops.add_pre_layer_norm(attended, bias, x, scale, shift, **dropout)
    states, _ = ops.add_post_layer_norm(ops.gelu_ffn(states, up, up_bias, down), bias, residual, scale, shift)
    states = ops.linear_gelu_layer_norm(states, square, bias, scale, shift)
    loss, accuracy = ops.linear_cross_entropy(states, words, word_bias, ids, torch.ones(9))
    loss.backward()
    grads = [p.main_grad if main_grad else p.grad for p in (*vectors, *matrices, down)]
    return [loss.detach(), accuracy, x.grad, word.grad, *grads]


@pytest.mark.parametrize("main_grad", [True, False], ids=["main_grad", "grad"])
def test_bits_are_those_of_the_dispatcher(main_grad):
    at_once = step(main_grad)
    with Seen() as seen:
        dispatched = step(main_grad)
    assert {"add_layer_norm", "add_layer_norm_backward", "embed_layer_norm", "embed_layer_norm_backward", "gelu_ffn",
            "gelu_ffn_backward", "linear_gelu_layer_norm", "gelu_layer_norm_backward", "cross_entropy_",
            "varlen_attention", "varlen_attention_backward"} <= set(seen.ours)  # fmt: skip
    assert ("accumulate_partials" if main_grad else "sum_partials") in seen.ours
    assert "accumulate_product" in seen.ours
    assert all(map(torch.equal, at_once, dispatched))


def test_who_watches_sees_ops():
    x = torch.randn(3, 4)
    assert not watched(x)
    assert not watched(torch.nn.Parameter(x))
    assert watched(x.to("meta"))
    with FakeTensorMode() as mode:
        assert watched(torch.empty(3))
    assert watched(mode.from_tensor(x))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert watched(x)
        step(True)
    assert {"albert_fast::add_layer_norm", "albert_fast::accumulate_product"} <= {e.key for e in profile.key_averages()}
    torch.func.vmap(lambda row: row if watched(row) else pytest.fail("vmap is not seen"))(x)


def test_without_gradients_none_are_kept():
    ops, vectors = get_ops("triton"), [parameter(16) for _ in range(3)]
    x = torch.randn(9, 16, requires_grad=True)
    with torch.no_grad():
        y, total = ops.add_pre_layer_norm(x, vectors[0], x, *vectors[1:])
    assert not y.requires_grad
    assert not total.requires_grad
