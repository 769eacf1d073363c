"""Measures everything on a GPU in one command: `python -m bench.gpu_report [--parts ...]`.

Needs one GPU and no network. Each part runs in its own process with a time limit, and its rows are saved one by one in
OUTPUT/report.json, so a part that fails or times out loses no row, and a second run continues with the first missing
row. The most important parts come first. OUTPUT/report.md and plots are updated after every part. --dry-run runs
everything that works on a CPU, at small sizes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from albert_fast.files import write_json
from albert_fast.text_tables import markdown_lines
from bench.gpu_parts import PARTS, do
from bench.machine import ROOT

LIMIT_SECONDS = 500


def run_part(part: str, dry: bool, limit: float, earlier: dict[str, Any], output: Path) -> dict[str, Any]:
    """Run `part` in a process group of its own; an error is stored along with the rows made before it."""
    result = (output / f".{part}.json").resolve()
    write_json(result, earlier)
    command = [sys.executable, "-m", "bench.gpu_report", "--one", part, "--output", str(result)]
    started = time.perf_counter()
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
        with suppress(ProcessLookupError):  # or processes that the part started would keep using the GPU
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    found = json.loads(result.read_text()) if result.exists() else {}
    result.unlink(missing_ok=True)
    return {**found, **({"error": error} if error else {}), "seconds": round(time.perf_counter() - started, 1)}


def write(output: Path, report: dict[str, Any]) -> None:
    """Write report.json, then report.md and the plots that the parts allow."""
    write_json(output / "report.json", report)
    machine = report["machine"]
    lines = [f"# GPU report: {machine['device']}", "", f"```\n{json.dumps(machine, indent=1)}\n```", ""]
    for name, part in report["parts"].items():
        state = part.get("error") or part.get("left_out") or f"{len(part.get('failed', []))} runs failed"
        lines.append(f"- **{name}** ({part['seconds']} s): {str(state).strip().splitlines()[-1] if state else 'done'}")
    try:
        from bench import plots
        from bench import report as tables

        ops = ops_document(report)
        if ops["rows"]:
            lines += ["", tables.op_table(Path("report.json"), ops)]
            write_json(output / "ops.json", ops)
            plots.draw(ops, output, "gpu")
        if report["parts"].get("pretrain", {}).get("rows"):
            lines += ["", tables.pretrain_table(Path("report.json"), report["parts"]["pretrain"])]
            plots.draw(report["parts"]["pretrain"], output, "pretrain")
    except Exception as error:  # the numbers are saved already
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
    """The parts that time ops, in the format of `make bench`."""
    rates = report["parts"].get("rates", {})
    ops = [part for name, part in report["parts"].items() if name not in ("memory", "pretrain")]
    rows = [row for part in ops for row in part.get("rows", [])]
    return {"bench": "ops", "machine": report["machine"], "rates": rates, "rows": rows if "copy" in rates else []}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to run (default: everything)"
    )
    parser.add_argument("--dry-run", action="store_true", help="run everything that works on a CPU, at small sizes")
    parser.add_argument("--again", action="store_true", help="repeat parts that are already done")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_SECONDS, help=f"time limit of a part in seconds (default: {LIMIT_SECONDS})"
    )
    results = ROOT / "bench" / "results" / "gpu"
    parser.add_argument("--output", type=Path, default=results, help="result folder (default: bench/results/gpu)")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        keep = partial(write_json, options.output)  # atomic: this process may be killed at any time
        keep(do(options.one, options.dry_run, keep, json.loads(options.output.read_text())))
        return
    from bench import machine

    described = machine.describe()
    if described["kind"] != "cuda" and not options.dry_run:
        sys.exit("gpu_report: torch finds no CUDA device; use --dry-run to try everything that works on a CPU")
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "report.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"bench": "gpu", "parts": {}}
    report["machine"] = described
    for part in options.parts:
        earlier = report["parts"].get(part)
        if earlier and "error" not in earlier and not options.again:
            print(f"{part}: already done", flush=True)
            continue
        # An interrupted part continues after its last row.
        found = {k: v for k, v in (earlier or {}).items() if k not in ("error", "seconds")} if not options.again else {}
        report["parts"][part] = run_part(part, options.dry_run, options.limit, found, options.output)
        write(options.output, report)
        print(f"{part}: {report['parts'][part].get('error', 'done')}"[:300], flush=True)


if __name__ == "__main__":
    main()
