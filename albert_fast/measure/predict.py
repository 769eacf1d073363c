"""Memory prediction: runs the real step on the meta device while tracking every storage (storage_tracker.py).

Opaque ops are tracked through the bodies that run on the target device; memory that C++ host code of CUDA ops allocates
is added by formula (`_scratch_bytes`).
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from albert_fast.measure.step_spec import StepSpec
from albert_fast.measure.storage_tracker import Lifetime, StorageTracker
from albert_fast.step import TrainStep

CUDA_BLOCK_BYTES = 512  # granularity of the CUDA caching allocator (c10/cuda/CUDACachingAllocator)
CUBLAS_WORKSPACE_BYTES = 32 << 20  # default on Hopper; 8 MiB on older cards (aten/src/ATen/cuda/CublasHandlePool.cpp)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Bytes of a step at its peak, by category, and all activations saved for backward.

    The five categories add up to peak_bytes. Some activations may already be freed at the peak; `saved` holds all that
    are alive when forward ends, by (tensor, layer).
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    temporaries_bytes: int
    peak_bytes: int
    saved: dict[tuple[str, int | None], int]
    peak_phase: str
    largest_temporaries: list[tuple[str, int]]

    def parts(self) -> dict[str, int]:
        names = ("parameters", "gradients", "optimizer", "activations", "temporaries", "peak")
        return {f"{name}_bytes": getattr(self, f"{name}_bytes") for name in names}


def predict(spec: StepSpec) -> Prediction:
    """Run one step on the meta device and account for every byte at its peak."""
    step = spec.build_on_meta()
    cuda = spec.target == "cuda"
    tracker = StorageTracker(
        step.model, _scratch_bytes if cuda else None, spec.bodies(), CUDA_BLOCK_BYTES if cuda else 1
    )
    _note_static(tracker, step, cuda)
    static = tracker.live_bytes
    with torch.device("meta"), tracker:
        losses = step.losses()
        forward_end, forward_peak = tracker.now, tracker.peak_bytes
        losses.loss.backward()
        del losses
        micro_step_peak = tracker.peak_bytes
        step.update()
    alive = tracker.alive(tracker.peak_event)

    def total(lifetimes: list[Lifetime]) -> int:
        return sum(lifetime.bytes for lifetime in lifetimes)

    def is_activation(lifetime: Lifetime) -> bool:
        outlives_forward = lifetime.born <= forward_end and lifetime.alive_at(forward_end)
        return lifetime.in_model and (outlives_forward or lifetime.born > forward_end)

    named = {name: total([x for x in alive if x.name == name]) for name in ("parameters", "gradients", "optimizer")}
    changing = [x for x in alive if x.name not in named]
    activations = [x for x in changing if x.name == "inputs" or is_activation(x)]
    temporaries = [x for x in changing if x not in activations]
    saved: dict[tuple[str, int | None], int] = {}
    for x in tracker.alive(forward_end):
        if x.in_model:
            saved[x.name, x.layer] = saved.get((x.name, x.layer), 0) + x.bytes
    peak = tracker.peak_bytes
    assert total(alive) == peak >= static
    return Prediction(
        **{f"{name}_bytes": size for name, size in named.items()},
        activations_bytes=total(activations),
        temporaries_bytes=total(temporaries),
        peak_bytes=peak,
        saved=saved,
        peak_phase="forward" if peak == forward_peak else "backward" if peak == micro_step_peak else "update",
        largest_temporaries=sorted(((x.name, x.bytes) for x in temporaries), key=lambda item: -item[1])[:4],
    )


def _note_static(tracker: StorageTracker, step: TrainStep, cuda: bool) -> None:
    """Track the tensors that live through a step, by category."""
    flat, optimizer, inputs = step.flat, step.optimizer, step.inputs
    with torch.device("meta"):
        ring = [torch.empty_like(inputs.device_buffer) for _ in range(inputs.RING)] if cuda else inputs.host
        workspace = [torch.empty(CUBLAS_WORKSPACE_BYTES, dtype=torch.uint8)] if cuda else []
    groups: dict[str, list[torch.Tensor]] = {
        "parameters": [flat.master, flat.compute],
        "gradients": [flat.grad],
        "optimizer": [*optimizer.state().values(), optimizer.gradient_norm, optimizer.last_learning_rate],
        "inputs": [inputs.device_buffer, *ring, step.key, step.sums],
        "workspace": workspace,
    }
    tracker.held = [tensor for tensors in groups.values() for tensor in tensors]
    for name, tensors in groups.items():
        for tensor in tensors:
            tracker.note(tensor, name)


def _scratch_bytes(func: Any, args: tuple) -> int:
    """Bytes that the C++ host code of an op allocates temporarily.

    FlashAttention backward: dq in fp32 and the row sums, with 128 spare rows per sequence slot (flash_api.cpp).
    Embedding backward: sorted ids, their order, segments, and partial sums (EmbeddingBackwardKernel.cu).
    """
    if func is torch.ops.aten.embedding_dense_backward.default:
        grad, ids = args[:2]
        return grad.numel() * grad.element_size() + 6 * ids.numel() * ids.element_size()
    if func is not torch.ops.aten._flash_attention_backward.default:
        return 0
    query, cu_seqlens = args[1], args[6]
    tokens, heads, size = query.shape
    multiple = 32 if size <= 128 else 64
    rows = tokens + 128 * (cu_seqlens.numel() - 1)
    return 4 * rows * heads * (math.ceil(size / multiple) * multiple + 1)


def fit(spec: StepSpec, limit: int, tell: Callable[[int, int], None] = lambda tokens, peak: None) -> tuple[int, int]:
    """(tokens_per_batch, peak_bytes) of the largest number of full sequences whose step fits into `limit` bytes.

    `tell` is called for each size tried. If not even one sequence fits, returns 0 and the peak of one sequence.
    """

    @cache
    def peak(sequences: int) -> int:
        tokens = sequences * spec.max_seq_length
        found = predict(replace(spec, tokens_per_batch=tokens)).peak_bytes
        tell(tokens, found)
        return found

    if peak(1) > limit:
        return 0, peak(1)
    # The peak is nearly linear in the sequences: bracket the limit, then search between.
    slope = max((peak(64) - peak(16)) / 48, 1.0)
    guess = max(64 + int((limit - peak(64)) / slope), 1)
    low, high = max(guess - guess // 64 - 1, 1), guess + guess // 64 + 1
    if peak(low) > limit:
        low = 1
    while peak(high) <= limit:
        low, high = high, 2 * high
    most = low - 1 + bisect_right(range(low, high), limit, key=peak)
    return most * spec.max_seq_length, peak(most)
