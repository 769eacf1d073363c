"""`albert-fast doctor`: checks this machine, times the implementations of each op, and lists what was not checked."""

import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import Distribution
from typing import Any, Literal

import torch

from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.files import strict_json
from albert_fast.kernels.candidates import Problem
from albert_fast.measure.batch import full_batch
from albert_fast.model import AlbertForPreTraining
from albert_fast.ops import Ops, get_ops
from albert_fast.options import Options, compute_dtype, device_kind, first_line, option
from albert_fast.step import TrainStep
from albert_fast.tuning import cache
from albert_fast.tuning.case import Case
from albert_fast.tuning.cases import Maker, cases, work
from albert_fast.tuning.check import deviation
from albert_fast.tuning.choose import Outcome, tune
from albert_fast.tuning.clock import Clock, clock_for
from albert_fast.tuning.run import problems_of

PACKAGES = ("torch", "triton", "numpy", "tokenizers", "safetensors")
CRC_OF_DIGITS = 0xE3069283  # CRC32C of "123456789", its published check value
# Maximum relative L2 error of a plain op in this precision.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """What to check, and how to print it."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "device to check; auto: CUDA if available")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "compute precision; auto: bf16 on CUDA, fp32 on CPU")
    config: str = option("base", "preset whose shapes are timed")
    tokens_per_batch: int = option(16384, "tokens of the timed micro-batch", at_least=128)
    tune_seconds: float = option(45.0, "time budget in seconds for checking and timing implementations", at_least=0)
    json: bool = option(False, "print one JSON document instead of text")


def doctor(options: DoctorOptions) -> None:
    """Check this machine: versions, the extension, every op against fp64, kernel implementations, graph capture.

    The exit code is 1 if anything is wrong. Checks that cannot run here are listed. Paste the output into bug reports.
    """
    device = torch.device(device_kind(options.device))
    report = examine(options, device)
    print(strict_json(report, indent=2) if options.json else text(report))
    if report["wrong"]:
        sys.exit(1)


def examine(options: DoctorOptions, device: torch.device, clock: Clock | None = None) -> dict[str, Any]:
    """The report: machine, checks (name; ok: True, False, or None if not checked; detail), implementations."""
    config, dtype = AlbertConfig.from_preset(options.config), compute_dtype(options.precision, device.type)
    checks = [_extension(), *_plain_ops(device, dtype)]
    report: dict[str, Any] = {"machine": machine(device), "checks": checks, "implementations": []}
    if device.type == "cuda":
        step = _step(config, options, "off", dtype, device)
        outcomes = tune(problems_of(step), step.model.ops, clock or clock_for(device), options.tune_seconds, device)
        report["implementations"] = [_row(o, rates(device, dtype)) for o in outcomes]
        checks += [_implementations(o) for o in outcomes]
        checks.append(_check("capture", lambda: _captured(config, options, dtype, device)))
    else:
        reason = "no CUDA device here" if not torch.cuda.is_available() else "a CPU was asked for"
        checks += [_result(name, None, reason) for name in ("kernels", "implementations", "capture")]
    report["wrong"] = [check["name"] for check in checks if check["ok"] is False]
    return report


def machine(device: torch.device) -> dict[str, Any]:
    """Card, driver and versions, as in the key of the tuning cache, and the system."""
    described = cache.card(device) | {"python": platform.python_version(), "system": platform.platform()}
    found = {name: next(iter(Distribution.discover(name=name)), None) for name in PACKAGES if name not in described}
    described |= {name: package.version if package else "missing" for name, package in found.items()}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        described |= {"cuda": str(torch.version.cuda), "memory": f"{free >> 20:,} of {total >> 20:,} MiB free"}
    return described


def _result(name: str, ok: bool | None, detail: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def _check(name: str, function: Callable[[], str | None]) -> dict[str, Any]:
    """Result of a check that returns or raises what is wrong."""
    try:
        fault = function()
    except Exception as error:
        fault = f"{type(error).__name__}: {first_line(error)}"
    return _result(name, fault is None, fault or "")


def _extension() -> dict[str, Any]:
    """Check the extension in a subprocess, because an illegal instruction would kill the process."""
    program = "import albert_fast._loader as l; print(l.crc32c(b'123456789'))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if run.returncode < 0:
        detail = f"signal {-run.returncode}: the extension was built for another processor; reinstall albert-fast"
        return _result("extension", False, detail)
    if run.returncode or run.stdout.strip() != str(CRC_OF_DIGITS):
        return _result("extension", False, (run.stderr.strip().splitlines() or [run.stdout.strip()])[-1])
    return _result("extension", True)


def plain_cases(make: Maker) -> list[Case]:
    """One call of each op that has a CUDA body or a kernel, at small ragged shapes."""
    found = [cases(Problem("attention", "", "", 0, *sizes, 82), 77, make)[1] for sizes in ((78, 26), (128, 64))]
    for op, columns, depth in (("add_layer_norm", 312, 0), ("gelu_ffn", 248, 62), ("linear_cross_entropy", 1001, 64)):
        found += cases(Problem(op, "", "", 0, columns, depth), 77, make)
    return found


def _plain_ops(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Check each plain op on the device against itself in fp64 on CPU."""
    found = []
    for precision in dict.fromkeys((torch.float32, dtype)):
        faults: dict[str, str | None] = {}
        for case in plain_cases(Maker(device, precision)):
            compare = partial(deviation, case, getattr(Ops(), case.op), precision, BOUNDS[precision])
            faults[case.op] = faults.get(case.op) or _check("", compare)["detail"]
        name = str(precision).removeprefix("torch.")
        found += [_result(f"{op} in {name}", not fault, fault or "") for op, fault in faults.items()]
    return found


def _step(config: AlbertConfig, options: DoctorOptions, capture: Any, dtype: torch.dtype, device: torch.device) -> Any:
    length = min(512, options.tokens_per_batch, config.max_position_embeddings)
    model = AlbertForPreTraining(config, get_ops("auto")).to(device)
    batch = full_batch(config, options.tokens_per_batch, length)
    return TrainStep(model, batch, length, TrainConfig(capture=capture), dtype)


def _captured(config: AlbertConfig, options: DoctorOptions, dtype: torch.dtype, device: torch.device) -> str | None:
    step = _step(config, replace(options, tokens_per_batch=min(options.tokens_per_batch, 1024)), "on", dtype, device)
    step.close()
    return None


def _implementations(outcome: Outcome) -> dict[str, Any]:
    out = "; ".join(f"{name}: {reason}" for name, reason in outcome.out.items())
    return _result(f"{outcome.problem.op} of {outcome.problem.rows_to} rows", not outcome.out, out)


def rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measured copy bandwidth in bytes/s (reads plus writes) and matrix-product rate in FLOP/s."""
    clock, size = clock_for(device), 8192
    source = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    a, target = torch.randn(size, size, device=device).to(dtype), torch.empty_like(source)
    copy, product = (min(once() for _ in range(7)) for once in map(clock.prepare, (
        lambda: target.copy_(source), lambda: a @ a)))  # fmt: skip
    return 2 * source.numel() / copy, 2 * size**3 / product


def _row(outcome: Outcome, reached: tuple[float, float]) -> dict[str, Any]:
    """An outcome as a table row: for each candidate, milliseconds, rate, and share of the measured peak rate."""
    problem, timings = outcome.problem, {}
    moved, done = work(problem)
    for name, seconds in outcome.seconds.items():
        rate, top = (done / seconds, reached[1]) if done else (moved / seconds, reached[0])
        unit, scale = ("TFLOP/s", 1e12) if done else ("GB/s", 1e9)
        timings[name] = {"milliseconds": 1000 * seconds, unit: rate / scale, "share": rate / top}
    return {"problem": problem._asdict(), "chosen": outcome.chosen, "timings": timings, "out": outcome.out}


def text(report: dict[str, Any]) -> str:
    """The report as text, to paste into a bug report."""
    known = (f"  {name}: {value or 'none'}" for name, value in report["machine"].items())
    lines = ["albert-fast doctor", *known, ""]
    words = {True: "ok", False: "WRONG", None: "not checked"}
    lines += [f"  {words[c['ok']]:<12} {c['name']}{': ' if c['detail'] else ''}{c['detail']}" for c in report["checks"]]
    for row in report["implementations"]:
        p = row["problem"]
        lines += ["", f"{p['op']}, {p['dtype']}, {p['rows_to']} rows, {p['columns']} columns: {row['chosen']}"]
        for name, timing in row["timings"].items():
            unit = next(key for key in timing if key.endswith("/s"))
            rate = f"{timing[unit]:9.1f} {unit} {timing['share']:6.1%}"
            lines.append(f"  {name:<44} {timing['milliseconds']:9.3f} ms {rate}")
    ending = f"wrong: {', '.join(report['wrong'])}" if report["wrong"] else "nothing is wrong"
    return "\n".join([*lines, "", ending])
