"""`albert-fast memory`: what a training step needs, for each share_type and ln_type, predicted and measured.

Predicted by running the real step on the meta device and following every storage (storage_tracker.py), so any size
takes seconds and no memory. Opaque ops are followed inside their real bodies; what a CUDA kernel's host code takes in
C++ is added by its formula (`_flash_scratch`).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from albert_fast import attention, ops
from albert_fast._loader import LoaderConfig
from albert_fast.attention import Queries
from albert_fast.config import AlbertConfig, ModelOptions, TrainConfig, check_room
from albert_fast.data.batches import Batch
from albert_fast.kernels.main_grad import accumulate_product
from albert_fast.measure.report import activation_table, markdown_table, plot
from albert_fast.measure.storage_tracker import Lifetime, StorageTracker
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, UserError, compute_dtype, device_kind, note, option
from albert_fast.packed import PretrainingBatch
from albert_fast.step import TrainStep

SHARE_TYPES, LN_TYPES = ("None", "attention", "ffn", "all"), ("postln", "preln")
RECOMPUTE = ("none", "ffn", "layer")
CUDA_BLOCK_BYTES = 512  # what the CUDA caching allocator rounds every request up to (c10/cuda/CUDACachingAllocator)
CUBLAS_WORKSPACE_BYTES = 32 << 20  # its default on Hopper, 8 MiB before (aten/src/ATen/cuda/CublasHandlePool.cpp)


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(Options):
    """The step whose memory is asked about."""

    tokens_per_batch: int = option(16384, "tokens of one micro-batch of one rank, packed")
    max_seq_length: int = option(512, "tokens of a sequence; the micro-batch is full of such", at_least=8)
    optimizer: Literal["lamb", "adamw"] = option("lamb", "update rule")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "compute precision; auto: bf16 for CUDA, fp32 for CPU")
    recompute: tuple[str, ...] = option(("none",), f"what backward recomputes: one or more of {', '.join(RECOMPUTE)}")
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "device to predict for; auto: cuda, but with --measure the device that is here"
    )
    measure: bool = option(False, "run each step here too, and compare its allocator's peak with the prediction")
    fit: str | None = option(None, "memory, such as 80GB or 40GiB: find the largest tokens_per_batch that fits")
    tensors: bool = option(False, "list activations by tensor and layer (one row asked for: always)")
    png: str | None = option(None, "file to draw stacked bars into", metavar="FILE")
    json: bool = option(False, "print one JSON document instead of Markdown")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_room(self.tokens_per_batch, self.max_seq_length)
        for name in self.recompute:
            if name not in RECOMPUTE:
                raise UserError(f"recompute={name!r} is unknown; use one or more of {', '.join(RECOMPUTE)}")

    def target(self) -> str:
        """The device predicted for."""
        return self.device if self.device != "auto" else device_kind("auto") if self.measure else "cuda"

    def dtype(self) -> torch.dtype:
        return compute_dtype(self.precision, self.target())

    def train_config(self, recompute: str) -> Any:
        return TrainConfig(optimizer=self.optimizer, recompute=recompute, capture="off")  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Bytes of one step at its peak, by what they hold, and everything that forward keeps for backward.

    The five parts add up to peak_bytes. At the peak some activations may be gone already; `saved` are all that were
    alive when forward ended, by (tensor, layer).
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


def full_batch(config: AlbertConfig, tokens: int, length: int) -> Batch:
    """A micro-batch of full sequences with the loader's default capacities (batches.PretrainingLoader); ids random."""
    random = np.random.default_rng(0)
    sequences = tokens // length
    loader = LoaderConfig()
    loader.tokens_per_batch, loader.max_seq_length, loader.max_sequences = tokens, length, max(tokens // 32, sequences)
    most = loader.max_sequences
    share = max(0.15, round(0.15 * length) / length)
    predictions = min(-(-(math.ceil(tokens * share) + math.ceil(math.sqrt(tokens / length))) // 16) * 16, tokens)
    edges = np.minimum(np.arange(loader.sequence_slots() + 1) * length, tokens)
    columns = 1 + random.random((sequences, length - 1)).argsort(1)[:, : round(0.15 * length)]
    masked = (np.arange(sequences)[:, None] * length + np.sort(columns)).ravel()
    used = len(masked)
    positions = np.zeros(predictions, np.int32)
    positions[:used] = masked
    return Batch(
        input_ids=random.integers(0, config.vocab_size, tokens, dtype=np.int32),
        token_type_ids=np.zeros(tokens, np.int32),
        position_ids=(np.arange(tokens) % length).astype(np.int32),
        cu_seqlens=edges.astype(np.int32),
        masked_lm_positions=positions,
        masked_lm_ids=random.integers(0, config.vocab_size, predictions, dtype=np.int32),
        masked_lm_weights=(np.arange(predictions) < used).astype(np.float32),
        sentence_order_labels=np.zeros(most, np.int32),
        sentence_order_weights=(np.arange(most) < sequences).astype(np.float32),
        index=0, epoch=0, num_tokens=sequences * length, num_sequences=sequences, num_predictions=used,
    )  # fmt: skip


def predict(config: AlbertConfig, options: MemoryOptions, recompute: str = "none") -> Prediction:
    """Run one whole step of `config` on the meta device and account for every byte at its peak."""
    target, batch = options.target(), full_batch(config, options.tokens_per_batch, options.max_seq_length)
    with torch.device("meta"):
        model = AlbertForPreTraining(config, _ops_for(target))
        step = TrainStep(model, batch, options.max_seq_length, options.train_config(recompute), options.dtype())
        tracker = _tracker(model, target, batch)
        _note_static(tracker, step, target)
        static = tracker.live_bytes
        with tracker:
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


def _ops_for(target: str) -> ops.Ops:
    """The ops that a run on `target` takes: there is no `auto` on the meta device."""
    if target == "cuda":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that kernels would be interpreted here: on the meta device none runs
            return ops.get_ops("triton")
    return ops.Ops(linear_cross_entropy=partial(ops.linear_cross_entropy, chunk=ops.logit_rows("cpu")))


def _tracker(model: AlbertForPreTraining, target: str, batch: Batch) -> StorageTracker:
    forward, backward = (
        torch.ops.albert_fast.varlen_attention.default,
        torch.ops.albert_fast.varlen_attention_backward.default,
    )
    if target == "cuda":
        # bf16 products accumulate into fp32 without copies of their operands there.
        bodies: dict[Any, Any] = {forward: attention._cuda_attention, backward: attention._cuda_attention_backward}
        skip = frozenset({accumulate_product.__code__})
        return StorageTracker(model, _flash_scratch, bodies, skip, CUDA_BLOCK_BYTES)
    # The CPU bodies read cu_seqlens and cu_queries, so these are real tensors. Where q is given, its edges are its own.
    packed = PretrainingBatch.from_loader(batch, torch.device("cpu"))
    own = Queries.pack(packed.head_positions(), packed.cu_seqlens, len(packed.input_ids)).cu_seqlens

    def real(body: Callable, q: int) -> Callable:
        def run(*args: Any) -> Any:
            edges = packed.cu_seqlens if args[q] is None else own
            return body(*args[:-3], edges, packed.cu_seqlens, args[-1])

        return run

    plain = {forward: (attention._varlen_attention, 1), backward: (attention._varlen_attention_backward, 2)}
    return StorageTracker(model, bodies={op: real(body._init_fn, q) for op, (body, q) in plain.items()})


def _note_static(tracker: StorageTracker, step: TrainStep, target: str) -> None:
    """Everything that lives through a step, by what it is for."""
    flat, optimizer, inputs = step.flat, step.optimizer, step.inputs
    groups: dict[str, list[torch.Tensor]] = {
        "parameters": [flat.master, flat.compute],
        "gradients": [flat.grad],
        "optimizer": [*optimizer.state().values(), optimizer.gradient_norm, optimizer.last_learning_rate],
        "inputs": [inputs.device_buffer, *([torch.empty_like(inputs.device_buffer) for _ in range(inputs.RING)]
                   if target == "cuda" else inputs.host), step.key, step.sums],
        "workspace": [torch.empty(CUBLAS_WORKSPACE_BYTES, dtype=torch.uint8)] if target == "cuda" else [],
    }  # fmt: skip
    tracker.held = [tensor for tensors in groups.values() for tensor in tensors]
    for name, tensors in groups.items():
        for tensor in tensors:
            tracker.note(tensor, name)


def _flash_scratch(func: Any, args: tuple) -> int:
    """FlashAttention's backward: dq in fp32 and the row sums, 128 rows spare a sequence slot (flash_api.cpp)."""
    if func is not torch.ops.aten._flash_attention_backward.default:
        return 0
    query, cu_seqlens = args[1], args[6]
    tokens, heads, size = query.shape
    multiple = 32 if size <= 128 else 64
    rows = tokens + 128 * (cu_seqlens.numel() - 1)
    return 4 * rows * heads * (math.ceil(size / multiple) * multiple + 1)


def fit(config: AlbertConfig, options: MemoryOptions, recompute: str, limit: int) -> tuple[int, int]:
    """(tokens_per_batch, peak_bytes): the most whole sequences whose step stays within `limit` bytes; 0, 0: none."""
    length, peaks = options.max_seq_length, {}

    def peak(sequences: int) -> int:
        if sequences not in peaks:
            peaks[sequences] = predict(
                config, replace(options, tokens_per_batch=sequences * length), recompute
            ).peak_bytes
        return peaks[sequences]

    low, high = 1, 8
    if peak(low) > limit:
        return 0, 0
    while peak(high) <= limit:
        straight = high + int((limit - peak(high)) * (high - low) / max(peak(high) - peak(low), 1))
        low, high = high, min(max(2 * high, straight + 2), 64 * high)
    # The peak is very nearly a straight line, so each guess by it leaves little; the middle guards against bends.
    turn = 0
    while high - low > 1:
        straight = low + int((limit - peak(low)) * (high - low) / (peak(high) - peak(low)))
        guess = (low + high) // 2 if turn % 3 == 2 else min(max(straight + turn % 3, low + 1), high - 1)
        low, high = (guess, high) if peak(guess) <= limit else (low, guess)
        turn += 1
    return low * length, peak(low)


def parse_bytes(text: str) -> int:
    """Bytes of '80GB' (10^9 each), '40GiB' (2^30 each), or a plain number."""
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if not match or number <= 0:
        raise UserError(f"fit={text!r} is no memory size; give one such as 80GB or 40GiB")
    power = " KMGT".index(match[2].upper() or " ")
    return int(number * (1024 if match[3] else 1000) ** power)


def memory(options: MemoryOptions, model: ModelOptions) -> None:
    """Memory of a training step for each share_type and ln_type, or for the one asked for, by what holds it.

    Prints Markdown. The five parts add up to the peak, which is that of the device's allocator; the CUDA context (about
    half a gigabyte) and fragmentation come on top.
    """
    limit = parse_bytes(options.fit) if options.fit else None
    target = options.target()
    if options.measure and target == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda cannot be measured: torch sees no CUDA device here; leave --measure or --device out"
        )
    share_types = [model.share_type] if model.share_type else SHARE_TYPES
    ln_types = [model.ln_type] if model.ln_type else LN_TYPES
    rows: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    console = Console(stderr=True)
    for ln_type in ln_types:
        for share_type in share_types:
            config = replace(model, share_type=share_type, ln_type=ln_type).build()  # type: ignore[arg-type]
            if options.max_seq_length > config.max_position_embeddings:
                raise UserError(
                    f"max_seq_length={options.max_seq_length} is over the config's max_position_embeddings="
                    f"{config.max_position_embeddings}; use at most that"
                )
            for recompute in options.recompute:
                with console.status(f"share_type {share_type}, {ln_type}, recompute {recompute}"):
                    row, detail = _row(config, options, recompute, limit)
                rows.append(row)
                details.append(detail)
    title = (
        f"{model.config}, S={options.max_seq_length}, T={options.tokens_per_batch:,}, "
        f"{str(options.dtype()).removeprefix('torch.')}, {options.optimizer}, predicted for {target}"
    )
    if options.png:
        plot(rows, Path(options.png), title)
        note(f"drew {options.png}")
    if options.json:
        Console().print_json(data={"title": title, "device": target, "rows": rows, "details": details})
        return
    print(markdown_table(rows, details, title))
    for row, detail in zip(rows, details, strict=True):
        if options.tensors or len(rows) == 1:
            print(activation_table(row, detail))


def _row(config: AlbertConfig, options: MemoryOptions, recompute: str, limit: int | None):
    predicted = predict(config, options, recompute)
    row: dict[str, Any] = {"share_type": config.share_type, "ln_type": config.ln_type}
    if options.recompute != ("none",):
        row["recompute"] = recompute
    row |= {**predicted.parts(), "measured_peak_bytes": None}
    by_tensor: dict[str, list[int]] = {}
    for (name, _), size in predicted.saved.items():
        by_tensor.setdefault(name, []).append(size)
    detail: dict[str, Any] = {
        "peak_phase": predicted.peak_phase,
        "saved_activations_bytes": sum(predicted.saved.values()),
        "saved_activations": [
            {"tensor": name, "layers": len(sizes), "bytes": sum(sizes)} for name, sizes in by_tensor.items()
        ],
        "largest_temporaries": predicted.largest_temporaries,
    }
    if options.measure:
        from albert_fast.measure.allocator import measure

        measured = measure(config, options, recompute)
        row["measured_peak_bytes"] = measured["peak_bytes"]
        detail |= {
            "difference_percent": 100 * (predicted.peak_bytes / measured["peak_bytes"] - 1),
            "measured": measured,
        }
    if limit is not None:
        tokens, peak = fit(config, options, recompute, limit)
        detail |= {"fit_bytes": limit, "fit_tokens_per_batch": tokens, "fit_peak_bytes": peak}
    return row, detail
