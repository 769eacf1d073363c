"""The optimizer's update on our kernels: the tables that they need, made once, and what a log takes from them."""

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
    """One update of `optimizer` from the sum of gradients, `share` of which is their mean; all of it on the device.

    The flat buffers are cut into parts, each a matrix of LAMB's or a vector with what pads it; and into rows, as long
    as they can be (a power of two) where none belongs to two parts.
    """

    def __init__(self, optimizer: Optimizer):
        from albert_fast.kernels import lamb  # where there is no GPU, Triton need not be

        self.optimizer, self.lamb = optimizer, lamb.lamb
        flat, config = optimizer.flat, optimizer.config
        starts: list[int] = []
        members: list[range] = []  # the parts of each tensor
        for name, offset in flat.offsets.items():
            count, size = flat.parts(name), flat.shapes[name].numel()
            members.append(range(len(starts), len(starts) + count))
            starts += [offset + i * size // count for i in range(count)]
        if not config.log_tensors:  # no one asks for a vector's norms: one part of them all lets rows be longer
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
        if config.log_tensors:  # part `count` is none; _note_ratios appends its zeros
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
        """The same ratios as Optimizer notes in PyTorch's ops."""
        o = self.optimizer
        assert self.ratios is not None
        assert self.lengths is not None
        if self.trusted:
            o.trust_ratios.copy_(self.ratios[: self.trusted])
        lengths = torch.stack((self.lengths[:, 0], self.ratios * self.lengths[:, 1]), dim=1)
        weights, changes = F.pad(lengths, (0, 0, 0, 1))[self.members].norm(dim=1).unbind(1)
        o.update_ratios.copy_(o.last_learning_rate * changes / weights.clamp(min=1e-12))
