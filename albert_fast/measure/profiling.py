"""`albert-fast profile`: time of a training step by stage and op, with an optional trace."""

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile, record_function

from albert_fast.cards import CARDS, load_card
from albert_fast.config import DataConfig, ModelOptions, TrainConfig
from albert_fast.data.batches import Batch
from albert_fast.measure.batch import full_batch
from albert_fast.measure.predicted_time import predict_time
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, UserError, compute_dtype, device_kind, note, option
from albert_fast.pretrain import open_loader
from albert_fast.run import check_trainable
from albert_fast.step import TrainStep
from albert_fast.text_tables import markdown_lines

# Calls that make the host wait for the device or read a value; runtime calls have CUDA names.
SYNCHRONISING = ("aten::_local_scalar_dense", "aten::nonzero", "cudaStreamSynchronize", "cudaDeviceSynchronize",
                 "cudaEventSynchronize", "cudaMemcpy")  # fmt: skip
LAUNCHING = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(Options):
    """What to profile, on this machine or for another card."""

    predict: str | None = option(
        None, f"price the step for a card instead of running it: {', '.join(CARDS)}", metavar="CARD"
    )
    rates: str | None = option(
        None, "JSON file of rates that override the card's, named as in albert_fast/cards.py", metavar="FILE"
    )
    ffn: Literal["library", "ours"] = option(
        "library", "with --predict, products of the feed-forward layers; ours: with fused epilogues"
    )
    gpus: int = option(1, "with --predict, number of cards in the run", at_least=1)
    tokens: float | None = option(
        None, "with --predict, tokens of the run, such as 100e9; prints its duration", above=0
    )
    png: str | None = option(
        None, "with --predict, plot op classes by share_type and preset to this file", metavar="FILE"
    )

    data: str | None = option(None, "prepared folder (default: full sequences of random tokens)", metavar="DIR")
    steps: int = option(3, "number of steps to time, and then to trace", at_least=1)
    warm_up: int = option(2, "steps before that", at_least=0)
    trace: str | None = option(
        None, "write a Chrome trace to this file; view it in chrome://tracing or Perfetto", metavar="FILE"
    )
    rows: int = option(20, "ops to list", at_least=1)
    json: bool = option(False, "print one JSON document instead of Markdown tables")

    def __post_init__(self) -> None:
        super().__post_init__()
        others = ("data", "steps", "warm_up", "trace") if self.predict else ("rates", "ffn", "gpus", "tokens", "png")
        for f in fields(self):
            if f.name in others and getattr(self, f.name) != f.default:
                how = "run, not priced; leave --predict out" if self.predict else "priced; give --predict CARD too"
                raise UserError(f"{f.name}={getattr(self, f.name)} is of a step that is {how}")
        if self.gpus > 1 and self.tokens is None:
            raise UserError(f"gpus={self.gpus} is of a run's plan; give --tokens too, such as 100e9")


class _Stages:
    """Runs a step stage by stage and records the seconds of each, synchronising with the device after each."""

    def __init__(self, step: TrainStep):
        self.step, self.captured = step, bool(step.graphs)
        self.seconds: dict[str, float] = {}

    def run(self, batches: Iterator[Batch]) -> int:
        """Run one step; returns its number of real tokens."""
        step, tokens = self.step, 0
        for _ in range(step.config.gradient_accumulation_steps):
            with self._timed("data wait"):
                batch = next(batches)
                step.inputs.load(batch)
            tokens += batch.num_tokens
            if self.captured:
                with self._timed("forward and backward (graph)"):
                    step.run_micro_step()
                continue
            with self._timed("forward"):
                losses = step.losses()
            with self._timed("backward"):
                losses.loss.backward()
                del losses
        with self._timed("optimizer"):
            step.run_update()
        return tokens

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        with record_function(name):
            yield
            if self.step.key.is_cuda:
                torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def profile_step(step: TrainStep, batches: Iterator[Batch], options: ProfileOptions) -> dict[str, Any]:
    """Median seconds of each stage over `steps` steps; ops, launches and synchronisations of as many traced ones."""
    stages, taken = _Stages(step), []
    for _ in range(options.warm_up):
        stages.run(batches)
    for _ in range(options.steps):
        stages.seconds = {}
        tokens = stages.run(batches)
        taken.append((tokens, stages.seconds))
    cuda = step.key.is_cuda
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(options.steps):
            stages.run(batches)
    if options.trace:
        profiler.export_chrome_trace(options.trace)
    stage_names = set(stages.seconds)
    averages = [row for row in profiler.key_averages() if row.key not in stage_names]
    ops = [
        {
            "op": row.key,
            "calls_per_step": row.count / options.steps,
            "seconds_per_step": (row.self_device_time_total if cuda else row.self_cpu_time_total) / 1e6 / options.steps,
        }
        for row in averages
    ]
    ops = sorted((row for row in ops if row["seconds_per_step"] > 0), key=lambda row: -row["seconds_per_step"])
    counts = Counter({row.key: row.count for row in averages})
    # On CPU every op counts as a launch, except views and wrappers that only call other ops.
    launched = LAUNCHING if cuda else [row["op"] for row in ops if row["op"].startswith(("aten::", "albert_fast::"))]
    total = [sum(seconds.values()) for _, seconds in taken]
    return {
        "step_seconds": statistics.median(total),
        "tokens_per_second": statistics.median(n / s for (n, _), s in zip(taken, total, strict=True)),
        "stages_seconds": {name: statistics.median(s[name] for _, s in taken) for name in taken[0][1]},
        "launches_per_step": sum(counts[name] for name in launched) / options.steps,
        "synchronisations_per_step": {
            name: counts[name] / options.steps for name in SYNCHRONISING if counts[name]
        },
        "classes_seconds": class_seconds(ops),
        "ops": ops,
    }  # fmt: skip


# Substrings of op and kernel names, by class of the ledger.
_CLASS_NAMES = {
    "attention": ("attention", "flash", "fmha"),
    "LayerNorm": ("layer_norm",),
    "products": (
        "mm", "aten::linear", "mkldnn", "onednn", "accumulate_product", "gemm", "nvjet", "cutlass",
        "linear_gelu", "gelu_linear",
    ),
}  # fmt: skip


def class_seconds(ops: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds per step of each class of the ledger: products, attention, LayerNorm, and other memory traffic."""
    seconds = dict.fromkeys(("products", "attention", "LayerNorm", "other memory traffic"), 0.0)
    for row in ops:
        name = row["op"].lower()
        found = (kind for kind, parts in _CLASS_NAMES.items() if any(part in name for part in parts))
        seconds[next(found, "other memory traffic")] += row["seconds_per_step"]
    return seconds


def profile_command(options: ProfileOptions, model: ModelOptions, data: DataConfig, train: TrainConfig) -> None:
    """Time a few training steps by stage, trace as many, and list ops, launches and synchronisations per step.

    With --predict CARD nothing is run: each op of the step is priced by its bytes and FLOPs.
    """
    if options.predict:
        predict_time(
            load_card(options.predict, options.rates), options.ffn, model, data, train,
            rows=options.rows, json=options.json, gpus=options.gpus, tokens=options.tokens, png=options.png,
        )  # fmt: skip
        return
    device = torch.device(device_kind(train.device))
    torch.manual_seed(train.seed)
    with open_loader(options.data, data, train.seed) if options.data else nullcontext() as loader:
        config = model.build(loader.corpus.vocab_size if loader else None)
        check_trainable(config, data)
        batches: Iterator[Batch] = loader or repeat(full_batch(config, **data.settings()))
        first = next(batches)
        built = AlbertForPreTraining(config, train.ops).to(device)
        step = TrainStep(built, first, data.max_seq_length, train, compute_dtype(train.precision, device.type))
        result = profile_step(step, batches, options)
    if options.json:
        Console().print_json(data={**result, "ops": result["ops"][: options.rows]})
    else:
        print(report(result, options.rows, device.type))
    if options.trace:
        note(f"wrote the trace of {options.steps} steps to {Path(options.trace)}")


def report(result: dict[str, Any], rows: int, device: str) -> str:
    """Markdown tables of the result of `profile_step`."""
    whole = result["step_seconds"]
    staged = sum(result["stages_seconds"].values())  # sum of medians, which differs from the median of the whole step
    lines = [f"### A step on {device}: {1000 * whole:,.1f} ms, {result['tokens_per_second']:,.0f} tokens/s", ""]
    lines += markdown_lines(("stage", "ms", "share"), "lrr", _shares(result["stages_seconds"].items(), staged))
    waits = ", ".join(f"{name} {count:g}" for name, count in result["synchronisations_per_step"].items()) or "none"
    what = "kernel and graph launches" if device == "cuda" else "ops that compute"
    lines += ["", f"Per step: {result['launches_per_step']:,.0f} {what}; synchronisations: {waits}.", ""]
    traced = sum(row["seconds_per_step"] for row in result["ops"]) or 1.0
    lines += [*markdown_lines(("class", "ms", "share"), "lrr", _shares(result["classes_seconds"].items(), traced)), ""]
    ops = result["ops"][:rows]
    shares = _shares(((row["op"], row["seconds_per_step"]) for row in ops), traced)
    cells = ((op, f"{row['calls_per_step']:g}", *share) for row, (op, *share) in zip(ops, shares, strict=True))
    lines += markdown_lines((f"op (its own time on {device})", "calls", "ms", "share"), "lrrr", cells)
    return "\n".join(lines) + "\n"


def _shares(seconds: Iterable[tuple[str, float]], whole: float) -> list[tuple[str, str, str]]:
    """Name, milliseconds and share of `whole` for each."""
    return [(name, f"{1000 * s:,.2f}", f"{100 * s / whole:.1f}%") for name, s in seconds]
