"""The optimizer on the kernels against the optimizer on PyTorch's ops, over the same flat buffers."""

import pytest
import torch
from support.interpreter import corrected_interpreter
from torch import nn

from albert_fast.config import TrainConfig
from albert_fast.ops import Ops
from albert_fast.optimizer import FlatParameters, Optimizer

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted")
SHAPES = {"a": (7, 9), "query_key_value": (60, 20), "b": (5,), "c": (3, 70), "query_key_value.bias": (60,)}


def make(fuses: bool, dtype=torch.bfloat16, **config) -> Optimizer:
    torch.manual_seed(0)
    model = nn.Module()
    for name, shape in SHAPES.items():
        model.register_parameter(name.replace(".", "_"), nn.Parameter(0.5 * torch.randn(shape)))
    config = {"max_steps": 6, "warmup_steps": 2, "learning_rate": 0.01, "weight_decay": 0.1} | config
    return Optimizer(FlatParameters(model, dtype), TrainConfig(**config), Ops(fuses_update=lambda grad: fuses))


def step(optimizer: Optimizer, index: int, bad: bool = False) -> None:
    generator = torch.Generator().manual_seed(index)
    for grad in optimizer.flat.views(optimizer.flat.grad).values():
        grad.copy_(torch.randn(grad.shape, generator=generator))
    if bad:
        optimizer.flat.grad[70] = torch.nan
    with corrected_interpreter():
        optimizer.update(micro_batches=3)


@pytest.mark.parametrize("log_tensors", [False, True], ids=["", "log"])
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_six_steps_as_without_kernels(optimizer, max_grad_norm, log_tensors):
    config = dict(optimizer=optimizer, max_grad_norm=max_grad_norm, log_tensors=log_tensors, decay_power=1.5)
    plain, fused = (make(fuses, **config) for fuses in (False, True))
    for index in range(6):
        for each in (plain, fused):
            step(each, index, bad=index == 3)
        for name, expected in plain.state().items():
            torch.testing.assert_close(fused.state()[name], expected, rtol=2e-5, atol=1e-7)
        torch.testing.assert_close(fused.flat.master, plain.flat.master, rtol=2e-5, atol=1e-6)
        assert torch.equal(fused.flat.compute, fused.flat.master.bfloat16())
        assert not fused.flat.grad.any()
        for scalar in ("gradient_norm", "last_learning_rate"):
            torch.testing.assert_close(getattr(fused, scalar), getattr(plain, scalar), equal_nan=True)
        if log_tensors:
            ratios, expected = fused.read_ratios(), plain.read_ratios()
            assert ratios.keys() == expected.keys()
            for kind in ratios:
                assert ratios[kind] == pytest.approx(expected[kind], rel=5e-5)
    assert (fused.steps, fused.updates) == (6, 5)


@pytest.mark.parametrize(("log_tensors", "vectors"), [(False, 1), (True, 2)], ids=["", "log"])
def test_parts_are_matrices_and_rows_belong_to_one_each(log_tensors, vectors):
    """Vectors are told apart for a log alone."""
    optimizer = make(True, log_tensors=log_tensors)
    fused, flat = optimizer.fused, optimizer.flat
    assert (fused.trusted, len(fused.around)) == (5, 5 + vectors)
    row = len(flat.grad) // len(fused.owners)
    assert row == 16  # a third of query, key and value is 400 elements
    flat.master.copy_(fused.owners.repeat_interleave(row))
    assert [matrix.unique().tolist() for matrix in flat.matrices(flat.master)] == [[part] for part in range(5)]
    assert torch.equal(fused.owners.bincount(), len(fused.owners) - fused.around.sum(1))


def test_the_ops_may_change_their_mind():
    """Tuning takes kernels that are wrong on a card away after the optimizer was made."""
    fused, plain = make(True), make(False)
    fused.ops.fuses_update = Ops().fuses_update
    for each in (fused, plain):
        step(each, 0)
    assert torch.equal(fused.flat.master, plain.flat.master)
