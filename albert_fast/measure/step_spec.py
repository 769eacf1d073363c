"""Specification of a training step for predictions and measurements, and its construction on the meta device.

Meta tensors have shapes but no memory, so the real step runs at any size in seconds. Opaque ops run there through
`bodies`: the code that they execute on the target device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from albert_fast import attention, ops
from albert_fast.attention import Queries
from albert_fast.config import AlbertConfig, DataConfig, TrainConfig
from albert_fast.data.batches import Batch
from albert_fast.kernels.main_grad import accumulate_product_upcast
from albert_fast.kernels.row_sums import add_row_sums_on_cpu, add_row_sums_on_cuda
from albert_fast.measure.batch import full_batch
from albert_fast.model import AlbertForPreTraining
from albert_fast.packed import PretrainingBatch
from albert_fast.step import TrainStep

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """A step of `config`: batch, training settings, target device type and compute dtype."""

    config: AlbertConfig
    tokens_per_batch: int
    max_seq_length: int
    train: TrainConfig
    target: str  # cpu or cuda
    dtype: torch.dtype
    loader: dict[str, Any] = field(default_factory=dict)  # LoaderSettings; the defaults assume endless documents

    @classmethod
    def of_run(
        cls, config: AlbertConfig, data: DataConfig, train: TrainConfig, target: str, dtype: torch.dtype
    ) -> Self:
        """The step of a pretraining run with these options."""
        config.check_length(data.max_seq_length)
        settings = data.settings()
        sizes = {name: settings.pop(name) for name in ("tokens_per_batch", "max_seq_length")}
        return cls(config=config, **sizes, loader=settings, train=train, target=target, dtype=dtype)

    def batch(self) -> Batch:
        """A micro-batch of full sequences of max_seq_length."""
        return full_batch(self.config, self.tokens_per_batch, self.max_seq_length, **self.loader)

    def build(self, device: torch.device, op_set: str | ops.Ops, capture: Literal["on", "off"] = "off") -> TrainStep:
        """Build the step on `device` with random weights."""
        train = replace(self.train, capture=capture)
        model = AlbertForPreTraining(self.config, op_set).to(device)
        return TrainStep(model, self.batch(), self.max_seq_length, train, self.dtype)

    def build_on_meta(self, **implementations: Any) -> TrainStep:
        """Build the step on the meta device with the ops of the target, some replaced by `implementations`."""
        op_set = self.ops()
        for name, implementation in implementations.items():
            setattr(op_set, name, implementation)
        with torch.device("meta"):
            return self.build(torch.device("meta"), op_set)

    def ops(self) -> ops.Ops:
        """The ops of a run on the target (`auto` cannot choose on the meta device)."""
        if self.target == "cuda":
            return ops.kernel_ops()
        return ops.Ops(linear_cross_entropy=partial(ops.linear_cross_entropy, chunk=ops.logit_rows("cpu")))

    def bodies(self) -> dict[Any, Callable]:
        """Bodies of the opaque ops on the target."""
        op = torch.ops.albert_fast
        forward, backward = op.varlen_attention.default, op.varlen_attention_backward.default
        if self.target == "cuda":
            return {
                forward: lambda *inputs: attention.cuda_attention(
                    *inputs[:5]
                ),  # without the bias, which only backward uses
                backward: attention.cuda_attention_backward,
                op.add_row_sums.default: add_row_sums_on_cuda,
            }
        # The CPU bodies read cu_seqlens and cu_queries, so they get real ones; q, if given, has its own.
        packed = PretrainingBatch.from_loader(self.batch(), torch.device("cpu"))
        own = Queries.pack(packed.head_positions(), packed.cu_seqlens, len(packed.input_ids)).cu_seqlens

        def real(body: Callable, q: int) -> Callable:
            def run(*args: Any) -> Any:
                cu_queries = packed.cu_seqlens if args[q] is None else own
                return body(*args[:-3], cu_queries, packed.cu_seqlens, args[-1])

            return run

        return {
            forward: lambda *inputs: real(attention.cpu_attention, 1)(*inputs[:5]),
            backward: lambda *inputs: real(attention.cpu_attention_backward, 2)(*inputs[:8]),
            op.accumulate_product.default: accumulate_product_upcast,
            op.add_row_sums.default: add_row_sums_on_cpu,
        }
