"""One update of all weights: torch.optim.AdamW (foreach, fused) and ours, flat, in PyTorch's ops or in our kernels."""

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
from bench.shapes import Shape

MODELS = [("base", "all"), ("base", "None")]
# Interpreted, kernels would take minutes.
KERNELS = ("kernels-adamw", "kernels-lamb") if harness.KIND == "cuda" else ()
IMPLEMENTATIONS = ("torch-foreach", "torch-fused", "ours-adamw", "ours-lamb", *KERNELS)

TRAIN = TrainConfig(optimizer="adamw", learning_rate=1e-4, warmup_steps=0, max_steps=10_000)


def made(model: AlbertForPreTraining, implementation: str) -> tuple[Callable, Callable, list[torch.nn.Parameter]]:
    """(prepare, update, weights) of an implementation over a copy of the model, the same gradients for all."""
    copied = copy.deepcopy(model)
    parameters = list(copied.parameters())
    torch.manual_seed(2)
    grads = [torch.randn_like(p) * 1e-3 for p in parameters]
    whose, kind = implementation.split("-")
    if whose != "torch":
        config = replace(TRAIN, optimizer=kind)  # type: ignore[arg-type]
        optimizer = Optimizer(FlatParameters(copied), config, get_ops("triton") if whose == "kernels" else None)
        targets: list[torch.Tensor] = [p.main_grad for p in parameters]  # type: ignore[attr-defined]
        return lambda: torch._foreach_copy_(targets, grads), lambda: optimizer.update(1), parameters
    decayed, others = ([p for p in parameters if (p.dim() > 1) == yes] for yes in (True, False))
    groups = [{"params": decayed, "weight_decay": TRAIN.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(
        groups, TRAIN.learning_rate, Optimizer.betas, Optimizer.epsilon, foreach=kind == "foreach",
        fused=kind == "fused",
    )  # fmt: skip
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
    prepare, update, weights = made(model, implementation)
    prepare()
    update()
    if implementation in ("torch-fused", "ours-adamw", "kernels-adamw"):
        first, reference, expected = made(model, "torch-foreach")
        first()
        reference()
        for weight, other in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6)
    count = sum(p.numel() for p in weights)

    def setup() -> None:  # must return nothing: pytest-benchmark would take it for arguments
        prepare()
        machine.synchronize()  # the gradients are there before the clock starts

    def timed() -> None:
        update()
        machine.synchronize()

    benchmark.group = f"optimizer {preset} share_type {share_type}"
    benchmark.pedantic(timed, setup=setup, rounds=30 if harness.KIND == "cuda" else 7, warmup_rounds=2)
    shape = Shape(preset, 0, 0, 0, 0)
    benchmark.extra_info.update(
        op=f"optimizer, share_type {share_type}", direction="update", implementation=implementation, preset=shape.name,
        tokens=0, parameters=count, bytes=28 * count, flops=0, dtype="float32", small_cpu_shape=harness.KIND == "cpu",
    )  # fmt: skip
    if benchmark.stats is not None:  # weight, gradient and two moments in; weight and two moments out
        rate = 28 * count / benchmark.stats.stats.median
        benchmark.extra_info.update(gb_per_second=rate / 1e9, copy_bandwidth_share=rate / harness.rates()["copy"])
