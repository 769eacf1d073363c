"""Optimizer update of all weights: torch.optim.AdamW (foreach, fused), ours in PyTorch ops and in Triton kernels."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.model import AlbertForPreTraining
from albert_fast.ops import get_ops
from albert_fast.optimizer import FlatParameters, Optimizer
from bench import harness, machine
from bench.huggingface import decay_groups

MODELS = [("base", "all"), ("base", "None")]
KERNELS = ("kernels-adamw", "kernels-lamb") if harness.KIND == "cuda" else ()  # interpreted, they take minutes
IMPLEMENTATIONS = ("torch-foreach", "torch-fused", "ours-adamw", "ours-lamb", *KERNELS)

TRAIN = TrainConfig(optimizer="adamw", learning_rate=1e-4, warmup_steps=0, max_steps=10_000)


def build(model: AlbertForPreTraining, implementation: str) -> tuple[Callable, Callable, list[torch.nn.Parameter]]:
    """(prepare, update, weights) of an implementation, on a copy of the model; gradients are the same for all."""
    copied = copy.deepcopy(model)
    parameters = list(copied.parameters())
    torch.manual_seed(2)
    grads = [torch.randn_like(p) * 1e-3 for p in parameters]
    source, kind = implementation.split("-")
    if source != "torch":
        config = replace(TRAIN, optimizer=kind)  # type: ignore[arg-type]
        optimizer = Optimizer(FlatParameters(copied), config, get_ops("triton") if source == "kernels" else None)
        targets: list[torch.Tensor] = [p.main_grad for p in parameters]  # type: ignore[attr-defined]
        return lambda: torch._foreach_copy_(targets, grads), lambda: optimizer.update(1), parameters
    groups = decay_groups(parameters, TRAIN.weight_decay)
    adamw = torch.optim.AdamW(groups, TRAIN.learning_rate, Optimizer.betas, Optimizer.epsilon, **{kind: True})
    for p, grad in zip(parameters, grads, strict=True):
        p.grad = grad.clone()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, TRAIN.max_grad_norm)
        adamw.step()

    return lambda: torch._foreach_copy_([p.grad for p in parameters], grads), update, parameters  # type: ignore[misc]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("preset", "share_type"), MODELS, ids=lambda value: str(value))
def test_optimizer(benchmark, preset, share_type, implementation):
    torch.manual_seed(0)
    model = AlbertForPreTraining(AlbertConfig.from_preset(preset, share_type=share_type)).to(harness.KIND)
    prepare, update, weights = build(model, implementation)
    prepare()
    update()
    if implementation in ("torch-fused", "ours-adamw", "kernels-adamw"):
        prepare_reference, update_reference, expected = build(model, "torch-foreach")
        prepare_reference()
        update_reference()
        for weight, other in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6)
    count = sum(p.numel() for p in weights)

    def setup() -> None:  # returns None: pytest-benchmark would pass a result on as arguments
        prepare()
        machine.synchronize()  # the gradients are complete before the clock starts

    def timed() -> None:
        update()
        machine.synchronize()

    benchmark.group = f"optimizer {preset} share_type {share_type}"
    benchmark.pedantic(timed, setup=setup, rounds=30 if harness.KIND == "cuda" else 7, warmup_rounds=2)
    harness.record(
        benchmark, op=f"optimizer, share_type {share_type}", direction="update", implementation=implementation,
        preset=preset, tokens=0, dtype=torch.float32, parameters=count,
        moved=28 * count,  # read weight, gradient and two moments; write weight and two moments
    )  # fmt: skip
