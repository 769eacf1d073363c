"""The optimizer update with our kernels: builds their index tables once and reads their statistics for the log."""

from __future__ import annotations

from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from albert_fast.optimizer import Optimizer

LONGEST_ROW = 1024  # elements


class FusedUpdate:
    """One update of `optimizer` from the summed gradients, entirely on the device; `share` turns the sum into a mean.

    The flat buffers are divided into parts (a matrix scaled by LAMB, or a vector with its padding) and into rows of
    equal length: the largest power of two for which no row belongs to two parts.
    """

    def __init__(self, optimizer: Optimizer):
        from albert_fast.kernels import lamb  # here, so that machines without a GPU need no Triton

        self.optimizer, self.lamb = optimizer, lamb.lamb
        flat, config = optimizer.flat, optimizer.config
        starts: list[int] = []
        members: list[range] = []  # the parts of each tensor
        for name, offset in flat.offsets.items():
            count, size = flat.parts(name), flat.shapes[name].numel()
            members.append(range(len(starts), len(starts) + count))
            starts += [offset + i * size // count for i in range(count)]
        if not config.log_tensors:  # norms of vectors are not needed: merging them into one part allows longer rows
            starts = [start for start in starts if start <= flat.decayed]
        length, count, device = len(flat.master), len(starts), flat.master.device
        row = gcd(LONGEST_ROW, length, *starts)
        edges = [start // row for start in (*starts, length)]
        owners = np.repeat(np.arange(count, dtype=np.int32), np.diff(edges))
        self.owners = torch.from_numpy(owners).to(device)
        around = [(start, edges[-1] - end) for start, end in pairwise(edges)]
        self.around = torch.tensor(around, dtype=torch.int32, device=device)
        self.trusted = len(flat.matrix_names()) if config.optimizer == "lamb" else 0
        self.ratios, self.lengths = None, None
        if config.optimizer == "lamb" or config.log_tensors:
            self.ratios, self.lengths = torch.ones(count, device=device), torch.zeros(count, 2, device=device)
        if config.log_tensors:  # index `count` is a placeholder, for which _note_ratios appends zeros
            self.members = torch.tensor([(*own, count, count)[:3] for own in members], device=device)

    def __call__(self, share: float) -> None:
        o = self.optimizer
        flat, config = o.flat, o.config
        self.lamb(
            flat.grad, o.exp_avg, o.exp_avg_sq, flat.master, None if flat.compute is flat.master else flat.compute,
            o.steps, o.updates, o.gradient_norm, o.last_learning_rate, self.owners, self.around, self.ratios,
            self.lengths, share=share, max_grad_norm=config.max_grad_norm, learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps, max_steps=config.max_steps, decay_power=config.decay_power,
            beta1=o.betas[0], beta2=o.betas[1], epsilon=o.epsilon, debiases=config.optimizer == "adamw",
            weight_decay=config.weight_decay, decayed=flat.decayed, trusted=self.trusted,
        )  # fmt: skip
        if config.log_tensors:
            self._note_ratios()

    def _note_ratios(self) -> None:
        """Store the same ratios as Optimizer computes with PyTorch ops."""
        o = self.optimizer
        assert self.ratios is not None
        assert self.lengths is not None
        if self.trusted:
            o.trust_ratios.copy_(self.ratios[: self.trusted])
        lengths = torch.stack((self.lengths[:, 0], self.ratios * self.lengths[:, 1]), dim=1)
        weights, changes = F.pad(lengths, (0, 0, 0, 1))[self.members].norm(dim=1).unbind(1)
        o.update_ratios.copy_(o.last_learning_rate * changes / weights.clamp(min=1e-12))
