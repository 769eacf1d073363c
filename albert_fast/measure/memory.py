"""`albert-fast memory`: memory of a training step for each share_type and ln_type, predicted and measured."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from albert_fast.config import AlbertConfig, DataConfig, LnType, ModelOptions, ShareType, TrainConfig
from albert_fast.measure.allocator import measure
from albert_fast.measure.memory_report import activation_table, markdown_table, plot
from albert_fast.measure.predict import fit, predict
from albert_fast.measure.status_line import StatusLine
from albert_fast.measure.step_spec import StepSpec
from albert_fast.options import Options, UserError, compute_dtype, device_kind, note, option

SHARE_TYPES: tuple[ShareType, ...] = ("None", "attention", "ffn", "all")
LN_TYPES: tuple[LnType, ...] = ("postln", "preln")
RECOMPUTE = ("none", "ffn", "layer")
LEAST_FIT_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(Options):
    """The training step to predict."""

    optimizer: Literal["lamb", "adamw"] = option("lamb", "update rule")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "compute precision; auto: bf16 for CUDA, fp32 for CPU")
    recompute: tuple[str, ...] = option(("none",), f"what backward recomputes: one or more of {', '.join(RECOMPUTE)}")
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "device to predict for; auto: cuda, or with --measure the device of this machine"
    )
    measure: bool = option(False, "also run each step here and compare the allocator's peak with the prediction")
    fit: str | None = option(None, "memory limit, such as 80GB or 40GiB: find the largest tokens_per_batch that fits")
    tensors: bool = option(False, "list activations by tensor and layer (always on if there is only one row)")
    png: str | None = option(None, "plot stacked bars to this file", metavar="FILE")
    json: bool = option(False, "print one JSON document instead of Markdown")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.recompute:
            if name not in RECOMPUTE:
                raise UserError(f"recompute={name!r} is unknown; use one or more of {', '.join(RECOMPUTE)}")

    def target(self) -> str:
        """The device to predict for."""
        return self.device if self.device != "auto" else device_kind("auto") if self.measure else "cuda"

    def spec(self, config: AlbertConfig, data: DataConfig, recompute: str = "none") -> StepSpec:
        """The step to predict for `config`."""
        train = TrainConfig(optimizer=self.optimizer, recompute=recompute, capture="off")  # type: ignore[arg-type]
        return StepSpec.of_run(config, data, train, self.target(), compute_dtype(self.precision, self.target()))


def parse_bytes(text: str) -> int:
    """Parse '80GB' (units of 10^9), '40GiB' (units of 2^30) or a plain number of bytes; UserError below 1 MB."""
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if not match or number <= 0:
        raise UserError(f"fit={text!r} is not a memory size; give one such as 80GB or 40GiB")
    power = " KMGT".index(match[2].upper() or " ")
    size = int(number * (1024 if match[3] else 1000) ** power)
    if size < LEAST_FIT_BYTES:
        unit = "" if match[2] else f"; did you mean {match[1]}GB"
        raise UserError(f"fit={text!r} is {size} bytes, too small for any step; give a size such as 80GB{unit}")
    return size


def memory(options: MemoryOptions, model: ModelOptions, data: DataConfig) -> None:
    """Predict the memory of a training step, by category, for each share_type and ln_type (or the given ones).

    Prints Markdown. The five categories add up to the peak of the device's allocator; the CUDA context (about half a
    gigabyte) and fragmentation come on top.
    """
    limit = parse_bytes(options.fit) if options.fit else None
    target = options.target()
    if options.measure and target == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda cannot be measured: torch sees no CUDA device; omit --measure or --device")
    share_types = (model.share_type,) if model.share_type else SHARE_TYPES
    ln_types = (model.ln_type,) if model.ln_type else LN_TYPES
    configs = [replace(model, share_type=s, ln_type=n).build() for n in ln_types for s in share_types]
    specs = [options.spec(config, data, recompute) for config in configs for recompute in options.recompute]
    rows, details = [], []
    with StatusLine() as progress:
        for spec in specs:
            row, detail = _row(spec, options, limit, progress)
            rows.append(row)
            details.append(detail)
    dtype = str(compute_dtype(options.precision, target)).removeprefix("torch.")
    title = (
        f"{model.config}, S={data.max_seq_length}, T={data.tokens_per_batch:,}, {dtype}, {options.optimizer}, "
        f"predicted for {target}"
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


def _row(
    spec: StepSpec, options: MemoryOptions, limit: int | None, progress: StatusLine
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row of the table, and the details reported besides it."""
    share_type, ln_type, recompute = spec.config.share_type, spec.config.ln_type, spec.train.recompute
    progress.begin(f"share_type {share_type}, {ln_type}, recompute {recompute}")
    predicted = predict(spec)
    row: dict[str, Any] = {"share_type": share_type, "ln_type": ln_type}
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
        progress.tell("measuring")
        measured = measure(spec)
        row["measured_peak_bytes"] = measured["peak_bytes"]
        detail["difference_percent"] = 100 * (predicted.peak_bytes / measured["peak_bytes"] - 1)
        detail["measured"] = measured
    if limit is not None:
        tokens, peak = fit(
            spec, limit, lambda tokens, peak: progress.tell(f"{tokens:,} tokens would take {peak / 1e9:.2f} GB")
        )
        detail |= {"fit_bytes": limit, "fit_tokens_per_batch": tokens or None, "fit_peak_bytes": peak}
        if not tokens:
            note(
                f"fit={options.fit}: a step of one sequence of {spec.max_seq_length} tokens takes {peak / 1e9:.3f} "
                f"GB with share_type {share_type}, {ln_type}: nothing fits; give more, or a shorter one"
            )
    return row, detail
