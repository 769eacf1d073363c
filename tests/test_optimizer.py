"""Flat buffers, and our update rules against an existing library's and torch's."""

from functools import partial

import pytest
import pytorch_optimizer
import torch
from torch import nn

from albert_fast.config import TrainConfig
from albert_fast.optimizer import ALIGNMENT, FlatParameters, Optimizer


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ParameterDict(
        {name: nn.Parameter(0.5 * torch.randn(shape)) for name, shape in (("a", (7, 9)), ("b", (5,)), ("c", (3, 70)))}
    )


def gradients(step: int) -> list[torch.Tensor]:
    torch.manual_seed(1000 + step)
    return [torch.randn(7, 9), torch.randn(5), torch.randn(3, 70)]


def test_flat_views_are_aligned_and_shared():
    model = make_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = FlatParameters(model, torch.bfloat16)
    assert all(start % ALIGNMENT == 0 for start in flat.offsets.values())
    assert flat.decayed == 64 + 256
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(flat.views(flat.master)[name], before[name])
        assert torch.equal(parameter, before[name].bfloat16())
        parameter.main_grad.fill_(2.0)
    assert flat.grad.sum() == 2.0 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
@pytest.mark.parametrize("part", [1 << 20, 100])  # the whole at once; four parts, of which one is decayed in part
def test_fifty_steps_as_the_library(optimizer, max_grad_norm, part, monkeypatch):
    monkeypatch.setattr("albert_fast.optimizer.CPU_PART", part)
    config = TrainConfig(optimizer=optimizer, max_steps=50, warmup_steps=10, learning_rate=0.01, weight_decay=0.1,
                         max_grad_norm=max_grad_norm)  # fmt: skip
    ours, theirs = make_model(), make_model()
    flat = FlatParameters(ours)
    mine = Optimizer(flat, config)
    matrices = {"params": [theirs["a"], theirs["c"]], "weight_decay": 0.1}
    vectors = {"params": [theirs["b"]], "weight_decay": 0.0}
    if optimizer == "adamw":
        library = [torch.optim.AdamW([matrices, vectors], eps=1e-6)]
    else:
        lamb = partial(pytorch_optimizer.Lamb, eps=1e-6, weight_decouple=False, adam_debias=True)  # no bias correction
        library = [lamb([matrices]), lamb([vectors], adam=True)]  # adam: no trust ratio
    for step in range(50):
        for parameter, other, grad in zip(ours.parameters(), theirs.parameters(), gradients(step), strict=True):
            parameter.main_grad.copy_(grad * 3)
            other.grad = grad.clone()
        rate = mine.learning_rate().item()
        if max_grad_norm:
            norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm)
        for part in library:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
        mine.update(micro_batches=3)
        if max_grad_norm:
            torch.testing.assert_close(mine.gradient_norm, norm)
        for name in ("a", "b", "c"):
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=2e-5)
    assert mine.steps == mine.updates == 50
    assert mine.learning_rate() == 0


def test_schedule_warms_up_and_decays():
    config = TrainConfig(max_steps=10, warmup_steps=4, learning_rate=1.0, decay_power=2.0)
    optimizer = Optimizer(FlatParameters(make_model()), config)
    rates = []
    for _ in range(10):
        rates.append(optimizer.learning_rate().item())
        optimizer.steps += 1
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[5:] == pytest.approx([(r / 6) ** 2 for r in (5, 4, 3, 2, 1)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_changes_nothing_and_is_counted(bad):
    model = make_model()
    flat = FlatParameters(model)
    optimizer = Optimizer(flat, TrainConfig(max_steps=10, warmup_steps=0))
    flat.grad[:100] = 1.0
    optimizer.update(1)
    before = [t.clone() for t in (flat.master, optimizer.exp_avg, optimizer.exp_avg_sq, optimizer.updates)]
    flat.grad[3] = bad
    optimizer.update(1)
    after = (flat.master, optimizer.exp_avg, optimizer.exp_avg_sq, optimizer.updates)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (optimizer.steps, optimizer.updates) == (2, 1)
    assert not flat.grad.any()
