"""The parts of `python -m bench.gpu_report`. Each saves its result after every row, by calling `keep`."""

import importlib
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.machine import ROOT
from bench.timed_ops import TIMED_KERNELS

PARTS = (
    "doctor",
    "rates",
    "step",
    *TIMED_KERNELS,
    "memory",
    "attention",
    "optimizer",
    "pretrain",
    "tests",
)  # most important first
WORTH = ("captured", "ours", "torch", "huggingface", "liger", "huggingface-compile", "compile")  # most important first
Keep = Callable[[dict[str, Any]], None]  # saves the partial result of a part


class Timer:
    """Replaces pytest-benchmark's fixture, which may not be installed: same calls, same statistics."""

    def __init__(self, rounds: int | None = None):
        self.most, self.group = rounds, ""
        self.extra_info: dict[str, Any] = {}
        self.stats: Timer | None = None  # set to self: the plugin has median and data in stats.stats

    def pedantic(self, function, setup=None, rounds: int = 1, warmup_rounds: int = 0) -> None:
        from bench.harness import stopwatch

        seconds = []
        for turn in range(warmup_rounds + min(rounds, self.most or rounds)):
            if setup:
                setup()
            started = stopwatch()
            function()
            if turn >= warmup_rounds:
                seconds.append(stopwatch() - started)
        self.data = seconds
        self.stats = self
        self.median = statistics.median(seconds)

    def row(self) -> dict[str, Any]:
        if len(self.data) > 1:
            q1, _, q3 = statistics.quantiles(self.data, n=4)
        else:
            q1 = q3 = self.median
        times = {"median_seconds": self.median, "q1_seconds": q1, "q3_seconds": q3, "rounds": len(self.data)}
        return {**self.extra_info, **times}


def part_doctor(dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    """Build the extension in the current environment, then run `albert-fast doctor`."""
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-q", "-e", "."]
    run = None if dry else subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run and run.returncode:
        keep({"pip": run.stderr[-2000:]})
    examined = subprocess.run(
        [sys.executable, "-m", "albert_fast", "doctor", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if not examined.stdout.startswith("{"):
        raise RuntimeError(examined.stderr[-2000:])
    return json.loads(examined.stdout)


def part_tests(dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    """`pytest -m gpu`, saving the outcome of each test; addopts is cleared because its plugins may be missing."""
    outcomes: dict[str, str] = earlier.get("outcomes", {})
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-o", "addopts=", "--import-mode=importlib",
               "--continue-on-collection-errors", "-rfE", "--tb=short"]  # fmt: skip
    skipped = [word for test in outcomes for word in ("--deselect", test)]
    run = subprocess.Popen([*command, *skipped, "tests"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    output = ""
    assert run.stdout is not None
    for line in run.stdout:
        output = (output + line)[-8000:]
        words = line.rsplit("[", 1)[0].rsplit(" ", 2) if "::" in line else []
        if len(words) == 3 and words[1] in ("PASSED", "FAILED", "SKIPPED", "ERROR"):
            outcomes[words[0]] = words[1]
            keep({"outcomes": outcomes})
    return {"code": run.wait(), "outcomes": outcomes, "output": output}


def part_rates(dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    from bench import harness

    return harness.rates()


def rows_of(
    runs: list[tuple[list[str], Callable[[], dict[str, Any]]]], keep: Keep, earlier: dict[str, Any]
) -> dict[str, Any]:
    """Make the missing rows; the reason is stored if a run fails.

    Args:
        runs: (name as a list of words, function that makes the row) of each run.
    """
    rows, failed = earlier.get("rows", []), earlier.get("failed", [])
    done = [row["run"] for row in rows + failed]
    for words, make in runs:
        if words in done:
            continue
        try:
            rows.append({"run": words, **make()})
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pytest.skip raises a BaseException
            failed.append({"run": words, "reason": f"{type(error).__name__}: {error}"[:600]})
        keep({"rows": rows, "failed": failed})
        print(f"{' '.join(words)}: {len(rows)} rows, {len(failed)} failed", flush=True)
    return {"rows": rows, "failed": failed}


def part_op(name: str, dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    """Every shape, implementation and direction of a benchmark file."""
    from bench import harness

    module = importlib.import_module(f"bench.bench_{name}")
    if name == "optimizer":
        runs = [(module.test_optimizer, (*model, i)) for model in module.MODELS for i in module.IMPLEMENTATIONS]
    elif name == "step":
        sizes = module.GPU_RUNS if harness.KIND == "cuda" else module.CPU_RUNS
        runs = [(module.test_step, (*size, i)) for size in sizes for i in module.IMPLEMENTATIONS]
    else:
        names = [n for n in harness.available("torch", "compile", "liger", "ours") if not (dry and n == "compile")]
        variants = [(128, False), (512, False), (512, True)] if name == "attention" else [()]
        runs = [
            (lambda t, v, s, i, d: harness.measure(t, module.case(s, *v), i, d), (v, s, i, d))
            for v, s, i, d in itertools.product(variants, harness.shapes(), names, harness.DIRECTIONS)
            if i != "liger" or name == "add_layer_norm"
        ]
    if dry:
        del runs[len(runs) // 4 + 1 :]
    else:  # within an implementation, large shapes (last in the benchmark) come first: the sort is stable
        runs.reverse()
        runs.sort(key=lambda run: min((WORTH.index(a) for a in run[1] if a in WORTH), default=0))

    def timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
        timer = Timer(2 if dry else None)
        function(timer, *arguments)
        return timer.row()

    return rows_of([([str(a) for a in run[1]], partial(timed, *run)) for run in runs], keep, earlier)


def part_memory(dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    """Predicted against measured memory for some rows of the table."""
    from albert_fast.config import AlbertConfig, DataConfig
    from albert_fast.measure.allocator import measure
    from albert_fast.measure.memory import MemoryOptions
    from albert_fast.measure.predict import predict

    sizes = [("tiny", 128, 256)] if dry else [("base", 128, 16384), ("base", 512, 16384), ("xlarge", 512, 8192)]
    kinds = [("all", "postln")] if dry else [("all", "postln"), ("None", "postln"), ("all", "preln")]

    def compared(preset: str, length: int, tokens: int, share: str, ln: str, recompute: str) -> dict[str, Any]:
        config = AlbertConfig.from_preset(preset, share_type=share, ln_type=ln)
        options, data = MemoryOptions(measure=True), DataConfig(tokens_per_batch=tokens, max_seq_length=length)
        spec = options.spec(config, data, recompute)
        predicted, measured = predict(spec), measure(spec)
        row = dict(preset=preset, max_seq_length=length, tokens=tokens, share_type=share, ln_type=ln)
        row |= {"recompute": recompute, **predicted.parts(), **{f"measured_{k}": v for k, v in measured.items()}}
        return {**row, "difference_percent": 100 * (predicted.peak_bytes / measured["peak_bytes"] - 1)}

    runs = [
        (*size, *kind, recompute)
        for size, kind in itertools.product(sizes, kinds)
        for recompute in (("none",) if dry or kind[0] == "None" else ("none", "ffn", "layer"))
    ]
    return rows_of([([str(a) for a in run], partial(compared, *run)) for run in runs], keep, earlier)


def part_pretrain(dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    from bench import bench_pretrain

    how = (["tiny"], ["full"], 1, 500, 0.05) if dry else (["base"], ["full", "short"], 10, 21128, 1.0)
    return bench_pretrain.run(*how, earlier.get("rows", []), keep)


def do(part: str, dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    if dry and part == "tests":
        return {"left_out": "no GPU to run `pytest -m gpu` on"}
    own = globals().get(f"part_{part}")
    return own(dry, keep, earlier) if own else part_op(part, dry, keep, earlier)
