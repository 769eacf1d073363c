"""The update of all weights as a case: a small model's flat buffers, by LAMB or AdamW."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from albert_fast.config import TrainConfig
from albert_fast.ops import Ops
from albert_fast.optimizer import FlatParameters, Optimizer
from albert_fast.tuning.case import Case

MOST_WEIGHTS = 1 << 24  # those of a larger model take no other time each


@dataclass(frozen=True)
class UpdateCase(Case):
    """The update of all weights; its op is a question of `Ops`, whether kernels make it.

    arguments: "lamb" or "adamw"; rows and columns of the weights, of which no longer rows can be made; the device.
    """

    def results(
        self, function: Callable[..., Any], dtype: torch.dtype, drawn_on: torch.device | None = None
    ) -> dict[str, Tensor]:
        """The state after three updates, of which the first finds a gradient that is not finite."""
        optimizer = self._optimizer(function, dtype)
        flat = optimizer.flat
        for turn in range(3):
            self._fill(flat, flat.grad, turn)
            if turn == 0:
                flat.grad[-1] = torch.nan
            optimizer.update(micro_batches=2)
        scalars = torch.stack((optimizer.gradient_norm, optimizer.last_learning_rate))
        return {
            "weights": flat.master, "moments": torch.cat((optimizer.exp_avg, optimizer.exp_avg_sq)),
            "rounded weights": flat.compute.to(dtype), "gradient": flat.grad, "scalars": scalars.to(dtype),
            "counters": torch.stack((optimizer.steps, optimizer.updates)).to(dtype),
        }  # fmt: skip

    def forward(self, function: Callable[..., Any], dtype: torch.dtype) -> Callable[[], Any]:
        """A call of one update, on buffers that stay where they are."""
        optimizer = self._optimizer(function, dtype)
        self._fill(optimizer.flat, optimizer.flat.grad, 0)
        return lambda: optimizer.update(micro_batches=2)

    backward = forward

    def _optimizer(self, function: Callable[..., Any], dtype: torch.dtype) -> Optimizer:
        """Over a fused query, key and value, a matrix and a vector, in bf16; its buffers in `dtype`."""
        kind, rows, columns, device = self.arguments
        rows = min(rows, MOST_WEIGHTS // columns)
        third = max(rows // 4, 1) | 1  # odd: so rows cannot be longer
        model = nn.Module()
        for name, shape in (
            ("query_key_value", (3 * third, columns)),
            ("matrix", (max(rows - 3 * third - 1, 1), columns)),
            ("vector", (columns,)),
        ):
            model.register_parameter(name, nn.Parameter(torch.empty(shape, device=device)))
        flat = FlatParameters(model, torch.bfloat16)
        self._fill(flat, flat.master, 3)
        config = TrainConfig(optimizer=kind, learning_rate=0.1, warmup_steps=2, max_steps=9, decay_power=2.0)
        optimizer = Optimizer(flat, config, Ops(fuses_update=function))
        flat.master, flat.grad = flat.master.to(dtype), flat.grad.to(dtype)
        optimizer.exp_avg, optimizer.exp_avg_sq = optimizer.exp_avg.to(dtype), optimizer.exp_avg_sq.to(dtype)
        return optimizer

    def _fill(self, flat: FlatParameters, buffer: Tensor, seed: int) -> None:
        """Normal numbers, the same in every dtype."""
        generator = torch.Generator(buffer.device).manual_seed(seed)
        for view in flat.views(buffer).values():
            view.copy_(torch.randn(view.shape, generator=generator, device=buffer.device))
