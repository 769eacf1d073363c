"""One optimizer step: the same two functions run eagerly, or are captured once as CUDA graphs and replayed.

`micro_step` reads a micro-batch from static buffers and accumulates its gradients in the flat buffer; `update` applies
the accumulated gradients to the weights. Neither synchronises with the host.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from albert_fast.capture import CaptureError, capture
from albert_fast.config import TrainConfig
from albert_fast.data.batches import Batch
from albert_fast.inputs import Inputs
from albert_fast.kernels.pending_sums import collecting
from albert_fast.model import AlbertForPreTraining, PretrainingLosses
from albert_fast.optimizer import FlatParameters, Optimizer
from albert_fast.options import UserError
from albert_fast.packed import PretrainingBatch

MEANS = ("mlm_loss", "sop_loss", "mlm_accuracy", "sop_accuracy")
SUMS = (*MEANS, "tokens", "micro_batches", "gradient_norm", "updates", "stops")


class TrainStep:
    """Weights, optimizer state and device counters of a run, and the training step on them.

    Args:
        model: on its device, in fp32; its parameters become views of flat buffers.
        example: a Batch with the shapes of all later ones.
        dtype: compute dtype of forward and backward, torch.float32 or torch.bfloat16.
        before_capture: called with the step when it is ready to run, before it is captured.
    """

    def __init__(
        self, model: AlbertForPreTraining, example: Batch, max_seq_length: int, config: TrainConfig,
        dtype: torch.dtype = torch.float32, rank: int = 0, world_size: int = 1,
        before_capture: Callable[[TrainStep], Any] | None = None,
    ):  # fmt: skip
        device = next(model.parameters()).device
        self.model, self.config, self.rank, self.world_size = model, config, rank, world_size
        model.albert.encoder.recompute = config.recompute
        self.flat = FlatParameters(model, dtype)
        if world_size > 1:
            dist.broadcast(self.flat.master, 0)
            self.flat.cast()
        self.optimizer = Optimizer(self.flat, config, model.ops)
        self.inputs = Inputs(example, max_seq_length, device)
        # The dropout key: the seed and the index of this rank's next global micro-batch.
        self.key = torch.tensor([config.seed, rank], dtype=torch.int64, device=device)
        self.sums = torch.zeros(len(SUMS), device=device)
        self.run_micro_step: Callable[[], None] = self.micro_step
        self.run_update: Callable[[], None] = self.update
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.inputs.load(example)  # kernel selection and warm-up read a real micro-batch
        if before_capture is not None:
            before_capture(self)
        if config.capture == "on" or (config.capture == "auto" and device.type == "cuda"):
            self._capture(device)

    def __call__(self, batches: Iterable[Batch]) -> bool:
        """Take one step over this rank's gradient_accumulation_steps micro-batches; False if `batches` ended early.

        An incomplete step leaves weights, optimizer state, dropout key and metrics unchanged.
        """
        taken, before = 0, self.sums if self.config.gradient_accumulation_steps == 1 else self.sums.clone()
        for batch in batches:
            self.inputs.load(batch)
            self.run_micro_step()
            taken += 1
        if taken < self.config.gradient_accumulation_steps:
            self.flat.grad.zero_()
            self.sums.copy_(before)
            self.key[1] -= taken * self.world_size
            return False
        self.run_update()
        return True

    def _capture(self, device: torch.device) -> None:
        """Replace the two functions by graph replays; on failure, raise (capture=on) or warn and continue eagerly."""
        try:
            with self.untouched():
                self.graphs = capture((self.micro_step, self.update), device)
        except CaptureError as error:
            if self.config.capture == "on":
                raise UserError(f"the step was {error}; use --capture off") from error
            warnings.warn(f"the step was {error}; use --capture off. Going on eagerly.", stacklevel=3)
            return
        self.run_micro_step, self.run_update = (graph.replay for graph in self.graphs)

    def close(self) -> None:
        """Free the CUDA graphs now: destroying an NCCL communicator waits for graphs that use it."""
        self.run_micro_step, self.run_update = self.micro_step, self.update
        for graph in self.graphs:
            graph.reset()
        self.graphs = []

    def micro_step(self) -> None:
        """Forward and backward of the static inputs; accumulates gradients and metrics and advances the dropout key."""
        losses = self.losses()
        with collecting():
            losses.loss.backward()
        # add_ instead of +=, which copies the result back once more.
        self.sums[:4].add_(torch.stack([getattr(losses, name).detach() for name in MEANS]))
        self.sums[4].add_(self.inputs.fields["num_tokens"][0])
        self.sums[5].add_(1)
        self.key[1].add_(self.world_size)

    def losses(self) -> PretrainingLosses:
        """Losses of the micro-batch in the static inputs."""
        fields = {name: value for name, value in self.inputs.fields.items() if name != "num_tokens"}
        batch = PretrainingBatch(**fields, max_seqlen=self.inputs.max_seqlen, dropout_key=self.key)
        return self.model.losses(batch)

    def update(self) -> None:
        """Update the weights from the accumulated gradients."""
        self.optimizer.update(self.config.gradient_accumulation_steps, self.world_size)
        self.sums[6].add_(self.optimizer.gradient_norm)
        self.sums[7].add_(1)

    def read_metrics(self, stop: bool = False) -> dict[str, float]:
        """Means since the last call and the number of real tokens, over all ranks. Synchronises with the device once.

        `stops` is the number of ranks that passed `stop`; last_gradient_norm belongs to the last step only.
        """
        sums = self.sums.clone()
        self.sums.zero_()
        sums[-1] = float(stop)
        if self.world_size > 1:
            dist.all_reduce(sums)
        o = self.optimizer
        scalars = (o.steps, o.updates, o.last_learning_rate, o.gradient_norm)
        *read, steps, applied, rate, last_norm = torch.cat([sums.double(), torch.stack(scalars).double()]).tolist()
        total = dict(zip(SUMS, read, strict=True))
        means = {name: total[name] / max(total["micro_batches"], 1) for name in MEANS}
        return {
            "loss": means["mlm_loss"] + means["sop_loss"],
            **means,
            "learning_rate": rate,
            "gradient_norm": total["gradient_norm"] / max(total["updates"], 1),
            "last_gradient_norm": last_norm,
            "tokens": total["tokens"],
            "skipped_updates": int(steps - applied),
            "stops": total["stops"],
        }

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Losses and accuracies over all ranks' `batches`, without dropout; training state is unchanged.

        They are means over all predicted tokens and all sequences, so they do not depend on the batch boundaries.
        """
        sums, weights = torch.zeros(2, 4, device=self.key.device).unbind()
        with _without_dropout(self.model):
            for batch in batches:
                self.inputs.load(batch)
                losses = self.losses()
                words, pairs = (self.inputs.fields[f"{name}_weights"].sum() for name in ("masked_lm", "sentence_order"))
                weight = torch.stack((words, pairs, words, pairs))
                weights += weight
                sums += torch.stack([getattr(losses, name) for name in MEANS]) * weight
        both = torch.stack((sums, weights))
        if self.world_size > 1:
            dist.all_reduce(both)
        means = dict(zip(MEANS, (both[0] / both[1].clamp(min=1)).tolist(), strict=True))
        return {"loss": means["mlm_loss"] + means["sop_loss"], **means}

    def mutable_tensors(self) -> list[Tensor]:
        """Every tensor that a step modifies, except the inputs."""
        optimizer = self.optimizer
        counters = (optimizer.steps, optimizer.updates, optimizer.gradient_norm, optimizer.last_learning_rate)
        flat = (self.flat.master, self.flat.grad, self.flat.compute, optimizer.exp_avg, optimizer.exp_avg_sq)
        return [*flat, *counters, self.key, self.sums]

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore weights, optimizer state, dropout key and metrics on exit."""
        before = [tensor.clone() for tensor in self.mutable_tensors()]
        try:
            yield
        finally:
            for tensor, saved in zip(self.mutable_tensors(), before, strict=True):
                tensor.copy_(saved)


@contextmanager
def _without_dropout(model: torch.nn.Module) -> Iterator[None]:
    modules = [module for module in model.modules() if getattr(module, "dropout", 0.0)]
    saved = [module.dropout for module in modules]
    for module in modules:
        module.dropout = 0.0  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, probability in zip(modules, saved, strict=True):
            module.dropout = probability
