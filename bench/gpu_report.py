"""Everything worth knowing about this code on a GPU, in one command: `python -m bench.gpu_report [--parts ...]`.

Needs one GPU and no network. Each part is a process of its own with a time limit; what it found, row by row, goes into
OUTPUT/report.json, so a part that fails or is cut off loses nothing that was measured, and a second run goes on with
the first row that is not there. What is worth most comes first. At the end (and after every part) OUTPUT/report.md and
plots are written. --dry-run does all of it that a CPU can, in small.
"""

import argparse
import importlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from albert_fast.files import strict_json
from albert_fast.text_tables import markdown_lines
from bench.timed_ops import TIMED_KERNELS

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 500
PARTS = ("doctor", "rates", "step", *TIMED_KERNELS, "memory", "attention", "optimizer", "pretrain", "tests")  # by worth
DRY_PARTS_LEFT_OUT = "no GPU to run `pytest -m gpu` on"
WORTH = ("captured", "ours", "torch", "huggingface", "liger", "huggingface-compile", "compile")  # in order of worth


class Timer:
    """Stands in for pytest-benchmark's fixture, which may not be installed: the same calls, the same statistics."""

    def __init__(self, rounds: int | None = None):
        self.most, self.group = rounds, ""
        self.extra_info: dict[str, Any] = {}
        self.stats: Timer | None = None  # then itself: the plugin has the median in stats.stats

    def pedantic(self, function, setup=None, rounds: int = 1, warmup_rounds: int = 0) -> None:
        from bench.harness import stopwatch

        seconds = []
        for turn in range(warmup_rounds + min(rounds, self.most or rounds)):
            if setup:
                setup()
            begun = stopwatch()
            function()
            if turn >= warmup_rounds:
                seconds.append(stopwatch() - begun)
        self.seconds = sorted(seconds)
        self.stats = self
        self.median = statistics.median(seconds)

    def row(self) -> dict[str, Any]:
        if len(self.seconds) > 1:
            q1, _, q3 = statistics.quantiles(self.seconds, n=4)
        else:
            q1 = q3 = self.median
        times = {"median_seconds": self.median, "q1_seconds": q1, "q3_seconds": q3, "rounds": len(self.seconds)}
        return {**self.extra_info, **times}


Keep = Callable[[dict[str, Any]], None]  # what takes a part's result so far


def part_doctor(dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    """The extension, built in the environment that is here, and what `albert-fast doctor` says."""
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
    """`pytest -m gpu`, each test noted as it ends; addopts emptied, since they name plugins that may be missing."""
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
    """The row of each run that has none yet; a run that fails leaves its reason instead.

    Args:
        runs: a run's name in words, and what makes its row.
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
        except BaseException as error:  # pytest.skip's is no Exception
            failed.append({"run": words, "reason": f"{type(error).__name__}: {error}"[:600]})
        keep({"rows": rows, "failed": failed})
        print(f"{' '.join(words)}: {len(rows)} rows, {len(failed)} failed", flush=True)
    return {"rows": rows, "failed": failed}


def part_op(name: str, dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    """Every shape, implementation and direction of a bench file."""
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
    else:  # the sort is stable: within an implementation large shapes, which the bench has last, come first
        runs.reverse()
        runs.sort(key=lambda run: min((WORTH.index(a) for a in run[1] if a in WORTH), default=0))

    def timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
        timer = Timer(2 if dry else None)
        function(timer, *arguments)
        return timer.row()

    return rows_of([([str(a) for a in run[1]], partial(timed, *run)) for run in runs], keep, earlier)


def part_memory(dry: bool, keep: Keep, earlier: dict[str, Any]) -> dict[str, Any]:
    """Predicted against measured, eager and captured, for some of the table's rows."""
    from albert_fast.config import AlbertConfig
    from albert_fast.measure.allocator import measure
    from albert_fast.measure.memory import MemoryOptions
    from albert_fast.measure.predict import predict

    sizes = [("tiny", 128, 256)] if dry else [("base", 128, 16384), ("base", 512, 16384), ("xlarge", 512, 8192)]
    kinds = [("all", "postln")] if dry else [("all", "postln"), ("None", "postln"), ("all", "preln")]

    def compared(preset: str, length: int, tokens: int, share: str, ln: str, recompute: str) -> dict[str, Any]:
        config = AlbertConfig.from_preset(preset, share_type=share, ln_type=ln)
        options = MemoryOptions(tokens_per_batch=tokens, max_seq_length=length, measure=True)
        predicted, measured = predict(options.spec(config, recompute)), measure(options.spec(config, recompute))
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
        return {"left_out": DRY_PARTS_LEFT_OUT}
    own = globals().get(f"part_{part}")
    return own(dry, keep, earlier) if own else part_op(part, dry, keep, earlier)


def run_part(part: str, dry: bool, limit: float, earlier: dict[str, Any], output: Path) -> dict[str, Any]:
    """`part` in a process group of its own; what goes wrong is noted beside what it found before."""
    result = output / f".{part}.json"
    result.write_text(strict_json(earlier))
    command = [sys.executable, "-m", "bench.gpu_report", "--one", part, "--output", str(result)]
    begun = time.perf_counter()
    run = subprocess.Popen(
        [*command, *(["--dry-run"] if dry else [])],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = run.communicate(timeout=limit)
        error = (err or out)[-3000:] if run.returncode else None
    except subprocess.TimeoutExpired:
        error = f"took more than {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError):  # what the part started would go on using the GPU
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    found = json.loads(result.read_text()) if result.exists() else {}
    result.unlink(missing_ok=True)
    return {**found, **({"error": error} if error else {}), "seconds": round(time.perf_counter() - begun, 1)}


def write(output: Path, report: dict[str, Any]) -> None:
    """report.json first, then whatever tables and plots its parts allow."""
    temporary = output / "report.json.tmp"
    temporary.write_text(strict_json(report, indent=1) + "\n")
    temporary.replace(output / "report.json")
    lines = [
        f"# GPU report: {report['machine']['device']}",
        "",
        f"```\n{json.dumps(report['machine'], indent=1)}\n```",
        "",
    ]
    for name, part in report["parts"].items():
        state = part.get("error") or part.get("left_out") or f"{len(part.get('failed', []))} runs failed"
        lines.append(f"- **{name}** ({part['seconds']} s): {str(state).strip().splitlines()[-1] if state else 'done'}")
    try:
        from bench import plots
        from bench import report as tables

        ops = ops_document(report)
        if ops["rows"]:
            lines += ["", tables.op_table(Path("report.json"), ops)]
            (output / "ops.json").write_text(strict_json(ops, indent=1) + "\n")
            plots.draw(ops, output, "gpu")
        if report["parts"].get("pretrain", {}).get("rows"):
            lines += ["", tables.pretrain_table(Path("report.json"), report["parts"]["pretrain"])]
            plots.draw(report["parts"]["pretrain"], output, "pretrain")
    except Exception as error:  # tables and plots are a convenience; the numbers are saved above
        lines += ["", f"Tables or plots failed: {type(error).__name__}: {error}"]
    memory = report["parts"].get("memory", {}).get("rows", [])
    if memory:
        columns = ("preset", "max_seq_length", "tokens", "share_type", "ln_type", "recompute", "peak_bytes",
                   "measured_peak_bytes", "difference_percent")  # fmt: skip
        cells = [[f"{row[c]:.1f}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in memory]
        lines += ["", *markdown_lines(columns, "l" * len(columns), cells)]
    if "output" in report["parts"].get("tests", {}):
        lines += ["", "```", report["parts"]["tests"]["output"][-3000:], "```"]
    (output / "report.md").write_text("\n".join(lines) + "\n")


def ops_document(report: dict[str, Any]) -> dict[str, Any]:
    """The parts that time ops, as `make bench` would have written them."""
    rates = report["parts"].get("rates", {})
    rows = [
        row
        for name, part in report["parts"].items()
        if name not in ("memory", "pretrain", "doctor", "tests")
        for row in part.get("rows", [])
    ]
    return {"bench": "ops", "machine": report["machine"], "rates": rates, "rows": rows if "copy" in rates else []}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dry-run", action="store_true", help="all of it that a CPU can, in small")
    parser.add_argument("--again", action="store_true", help="do parts that are done already once more")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds that a part may take")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "gpu")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        # Written aside and renamed: this process may be killed at any time.
        part = options.output.with_suffix(".partial")

        def keep(found: dict[str, Any]) -> None:
            part.write_text(strict_json(found))
            part.replace(options.output)

        keep(do(options.one, options.dry_run, keep, json.loads(options.output.read_text())))
        return
    from bench import machine

    described = machine.describe()
    if described["kind"] != "cuda" and not options.dry_run:
        sys.exit("gpu_report: torch sees no CUDA device here; use --dry-run to try everything that a CPU can")
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "report.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"bench": "gpu", "parts": {}}
    report["machine"] = described
    for part in options.parts:
        earlier = report["parts"].get(part)
        if earlier and "error" not in earlier and not options.again:
            print(f"{part}: done before", flush=True)
            continue
        # A part that was cut off goes on behind what it had found.
        found = {k: v for k, v in (earlier or {}).items() if k not in ("error", "seconds")} if not options.again else {}
        report["parts"][part] = run_part(part, options.dry_run, options.limit, found, options.output)
        write(options.output, report)
        print(f"{part}: {report['parts'][part].get('error', 'done')}"[:300], flush=True)


if __name__ == "__main__":
    main()
