"""Flat buffers for parameters, gradients and optimizer state; LAMB and AdamW on them, entirely on the device.

Step count, learning rate, clipping and the check for non-finite gradients are device tensors, so that a CUDA graph of
`update` stays correct at every replay.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from albert_fast.config import TrainConfig
from albert_fast.fused_update import FusedUpdate
from albert_fast.ops import Ops

# 64 elements are 128 bytes in bf16, the alignment that TMA and 128-bit loads need.
ALIGNMENT = 64
CPU_PART = 1 << 20  # elements (4 MiB), small enough to stay in cache


def scheduled_rate(c: TrainConfig, done: Tensor) -> Tensor:
    """Learning rate of the step after `done` steps."""
    warmup = (done + 1) / max(c.warmup_steps, 1)
    decay = ((c.max_steps - done) / max(c.max_steps - c.warmup_steps, 1)).clamp(min=0) ** c.decay_power
    return c.learning_rate * torch.where(done < c.warmup_steps, warmup, decay)


class FlatParameters:
    """A model's parameters in one flat fp32 master buffer, with a flat fp32 gradient buffer.

    The parameters become views of `compute` (the master, or its cast to bf16), and each gets an attribute `main_grad`,
    a view of `grad` that the ops accumulate into. Tensors with weight decay come first; `decayed` is their length.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32):
        # LAMB scaling and weight decay exclude biases and LayerNorms, which are exactly the vectors.
        named = sorted(model.named_parameters(), key=lambda item: item[1].dim() < 2)
        self.shapes = {name: parameter.shape for name, parameter in named}
        self.offsets: dict[str, int] = {}
        length = self.decayed = 0
        for name, parameter in named:
            self.offsets[name] = length
            length += math.ceil(parameter.numel() / ALIGNMENT) * ALIGNMENT
            if parameter.dim() >= 2:
                self.decayed = length
        device = named[0][1].device
        self.master = torch.zeros(length, device=device)
        self.grad = torch.zeros(length, device=device)
        self.compute = self.master if dtype == torch.float32 else torch.zeros(length, device=device, dtype=dtype)
        master, grad, compute = self.views(self.master), self.views(self.grad), self.views(self.compute)
        for name, parameter in named:
            master[name].copy_(parameter.data)
            parameter.data, parameter.main_grad = compute[name], grad[name]  # type: ignore[attr-defined]
        self.cast()

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat buffer with this layout, by parameter name."""
        return {name: flat[start : start + self.shapes[name].numel()].view(self.shapes[name])
                for name, start in self.offsets.items()}  # fmt: skip

    def cast(self) -> None:
        """Copy the master weights to the compute weights, once per step."""
        if self.compute is not self.master:
            self.compute.copy_(self.master)

    def parts(self, name: str) -> int:
        """How many matrices LAMB scales in a tensor: three for the fused query-key-value, as published, else one."""
        return 3 if "query_key_value" in name and len(self.shapes[name]) > 1 else 1

    def matrices(self, flat: Tensor) -> list[Tensor]:
        """The matrices that LAMB scales, in order."""
        views = {name: view for name, view in self.views(flat).items() if view.dim() > 1}
        return [part for name, view in views.items() for part in view.chunk(self.parts(name))]

    def matrix_names(self) -> list[str]:
        """Names of `matrices`, in the same order."""
        names = {name: self.parts(name) for name, shape in self.shapes.items() if len(shape) > 1}
        return [part for name, n in names.items() for part in ([f"{name}.{i}" for i in range(n)] if n > 1 else [name])]


class Optimizer:
    """LAMB (You et al. 2020, https://arxiv.org/abs/1904.00962) or AdamW (Loshchilov and Hutter 2019).

    LAMB as in google-research/albert (lamb_optimizer.py): moments without bias correction, weight decay inside the
    scaled update, biases and LayerNorms neither decayed nor scaled. AdamW has torch's bias correction.

    Attributes (device tensors): exp_avg and exp_avg_sq, flat fp32; steps and updates, int64 scalars: steps counts all
    updates, `updates` only those with a finite gradient; gradient_norm, before clipping.
    """

    betas, epsilon = (0.9, 0.999), 1e-6

    def __init__(self, flat: FlatParameters, config: TrainConfig, ops: Ops | None = None):
        self.flat, self.config, self.ops = flat, config, ops or Ops()
        device = flat.master.device
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(flat.master), torch.zeros_like(flat.master)
        # On CPU the update runs part by part, each small enough to keep all four buffers in cache.
        length = len(flat.master)
        size = CPU_PART if device.type == "cpu" else length
        self.parts = [slice(start, min(start + size, length)) for start in range(0, length, size)]
        self.steps, self.updates = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self.gradient_norm, self.last_learning_rate = (torch.zeros((), device=device) for _ in range(2))
        if config.log_tensors:
            self.trust_ratios = torch.zeros(len(flat.matrix_names()), device=device)
            self.update_ratios = torch.zeros(len(flat.shapes), device=device)
        self.fused = FusedUpdate(self) if self.ops.fuses_update(flat.grad) else None

    def learning_rate(self) -> Tensor:
        """Learning rate of the next step, fp32: linear warm-up, then polynomial decay to 0 at max_steps."""
        return scheduled_rate(self.config, self.steps.float())

    @torch.no_grad()
    def update(self, micro_batches: int, world_size: int = 1) -> None:
        """Update the weights from the summed gradients of `micro_batches` micro-batches on each of `world_size` ranks.

        If the gradient is not finite, weights and moments stay unchanged. The gradient buffer is zeroed.
        """
        flat = self.flat
        if world_size > 1:
            dist.all_reduce(flat.grad)
        share = 1.0 / (micro_batches * world_size)
        # Checked again because tuning may have disabled the kernels in the meantime.
        if self.fused is not None and self.ops.fuses_update(flat.grad):
            self.fused(share)
            return
        self.gradient_norm.copy_(torch.linalg.vector_norm(flat.grad) * share)
        finite = torch.isfinite(self.gradient_norm)
        scale = torch.full_like(self.gradient_norm, share)
        if self.config.max_grad_norm > 0:
            scale = scale * (self.config.max_grad_norm / (self.gradient_norm + 1e-6)).clamp(max=1.0)
        self.updates += finite
        epsilon, correction = self._debias()
        for part in self.parts:
            self._change(part, scale * finite, finite, epsilon, correction)
        if self.config.optimizer == "lamb":
            self._trust(flat.grad)
        if self.config.log_tensors:
            self._note_ratios(flat.grad)
        self.last_learning_rate.copy_(self.learning_rate())
        rate = self.last_learning_rate * finite
        for part in self.parts:
            flat.master[part].sub_(flat.grad[part].mul_(rate))
            flat.grad[part].zero_()
        self.steps += 1
        flat.cast()

    def _debias(self) -> tuple[float | Tensor, Tensor | None]:
        """Epsilon and scale of AdamW's bias-corrected update (LAMB: epsilon and None).

        Both corrections are folded into two scalars (Kingma and Ba 2015, end of section 2); 1 before the first update.
        """
        if self.config.optimizer == "lamb":
            return self.epsilon, None
        count = self.updates.to(self.flat.master.dtype)
        first, second = (torch.where(count > 0, 1 - beta**count, 1.0) for beta in self.betas)
        return self.epsilon * second.sqrt(), second.sqrt() / first

    def _change(
        self, part: slice, scale: Tensor, finite: Tensor, epsilon: float | Tensor, correction: Tensor | None
    ) -> None:
        """Turn a part of the gradient buffer into the update, before LAMB's trust ratio and the learning rate."""
        grad, exp_avg, exp_avg_sq = self.flat.grad[part], self.exp_avg[part], self.exp_avg_sq[part]
        beta1, beta2 = self.betas
        # With scale 0 this leaves 0 even for NaN and infinity; masked_fill takes ten times as long on CPU.
        grad.mul_(scale).nan_to_num_(0.0, 0.0, 0.0)
        kept = finite.to(grad.dtype)
        exp_avg.lerp_(grad, (1 - beta1) * kept)
        exp_avg_sq.lerp_(grad.square_(), (1 - beta2) * kept)
        torch.div(exp_avg, torch.sqrt(exp_avg_sq, out=grad).add_(epsilon), out=grad)
        if correction is not None:
            grad.mul_(correction)
        decayed = max(self.flat.decayed - part.start, 0)
        grad[:decayed].add_(self.flat.master[part][:decayed], alpha=self.config.weight_decay)

    def _trust(self, change: Tensor) -> None:
        """Scale each matrix's update by the trust ratio ||weight|| / ||update||, or by 1 if either norm is 0."""
        changes = self.flat.matrices(change)
        weight_norm = torch.stack(torch._foreach_norm(self.flat.matrices(self.flat.master)))
        change_norm = torch.stack(torch._foreach_norm(changes))
        ratio = torch.where((weight_norm > 0) & (change_norm > 0), weight_norm / change_norm, 1.0)
        torch._foreach_mul_(changes, list(ratio.unbind()))
        if self.config.log_tensors:
            self.trust_ratios.copy_(ratio)

    def _note_ratios(self, change: Tensor) -> None:
        """Store ||update|| / ||weight|| of every tensor for read_ratios; `change` excludes the learning rate."""
        changes, weights = (
            torch.stack(torch._foreach_norm(list(self.flat.views(flat).values())))
            for flat in (change, self.flat.master)
        )
        self.update_ratios.copy_(self.learning_rate() * changes / weights.clamp(min=1e-12))

    def read_ratios(self) -> dict[str, dict[str, float]]:
        """update_ratio and, for LAMB's matrices, trust_ratio of the last update, by tensor. Synchronises.

        The fused query, key and value have separate trust ratios: their names end in .0, .1 and .2.
        """
        ratios = {"update_ratio": dict(zip(self.flat.shapes, self.update_ratios.tolist(), strict=True))}
        if self.config.optimizer == "lamb":
            ratios["trust_ratio"] = dict(zip(self.flat.matrix_names(), self.trust_ratios.tolist(), strict=True))
        return ratios

    def state(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint by name. They are views of the state, so copying into them restores it."""
        moments = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        tensors = {f"{kind}.{name}": view for kind, m in moments.items() for name, view in self.flat.views(m).items()}
        return tensors | {"steps": self.steps, "updates": self.updates}
