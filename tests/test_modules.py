"""The modules that hold weights: a part of a product's outputs, and how weights begin."""

import pytest
import torch
from support.tiny_models import tiny_config

from albert_fast.model import AlbertForPreTraining
from albert_fast.modules import Linear
from albert_fast.ops import Ops


@pytest.mark.parametrize("main_grad", [False, True])
def test_some_outputs_of_a_product_are_those_of_all(main_grad):
    torch.manual_seed(0)
    linear, x = Linear(5, 7, Ops()), torch.randn(3, 5)
    torch.nn.init.normal_(linear.weight)
    torch.nn.init.normal_(linear.bias)
    if main_grad:
        linear.weight.main_grad, linear.bias.main_grad = torch.zeros(7, 5), torch.zeros(7)
    made = linear(x, slice(2, 6))
    torch.testing.assert_close(made, linear(x)[:, 2:6])
    made.square().sum().backward()
    grads = [p.main_grad if main_grad else p.grad for p in (linear.weight, linear.bias)]
    product = x @ linear.weight.detach()[2:6].t() + linear.bias.detach()[2:6]
    for grad, expected in zip(grads, (2 * product.t() @ x, 2 * product.sum(0)), strict=True):
        torch.testing.assert_close(grad[2:6], expected)
        assert not grad[:2].any()
        assert not grad[6:].any()


def test_weights_begin_within_two_standard_deviations():
    torch.manual_seed(0)
    model = AlbertForPreTraining(tiny_config(initializer_range=0.02, vocab_size=3000))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert parameter.abs().max() <= 0.04, name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("layer_norm.weight")))), name
    word = model.albert.embeddings.word_embeddings.weight
    assert word.std().item() == pytest.approx(0.0176, rel=0.03)  # of a normal of 0.02 cut at two of its deviations
