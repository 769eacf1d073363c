"""`make bench`: times every op and the step into one JSON: `python -m bench.run [--only NAME ...] [--output FILE]`.

It prints the expected duration first, and each row tells what "ours" runs on this device. Rows are saved after each
benchmark: an interrupted run leaves them in NAME-unfinished.json.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from albert_fast.files import write_file
from bench import harness, machine
from bench.report import op_table
from bench.timed_ops import OPS

CPU_SECONDS = 70  # of one benchmark on two CPU cores, with startup and compilation
FOLDER = Path(__file__).parent


def expected(names: list[str], kind: str, output: Path) -> str:
    """Expected duration of the benchmarks `names`: from this device's last run or, on a CPU, from CPU_SECONDS."""
    before = json.loads(output.read_text()).get("seconds", {}) if output.exists() else {}
    if kind != "cpu" and not before.keys() >= set(names):
        return "duration unknown before the first run on this device"
    seconds = sum(before.get(name, CPU_SECONDS) for name in names)
    return f"about {max(round(seconds / 60), 1)} min"


def run(name: str, keyword: str = "") -> tuple[list[dict[str, Any]], bool]:
    """(rows, interrupted) of one benchmark, in a process of its own so that a crash does not affect the others."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "out.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-enable"]
        command += ["--benchmark-quiet", "--disable-warnings", f"--benchmark-json={file}"]
        command += ["-k", keyword] if keyword else []
        # In a new session Ctrl-C reaches this process only, which forwards it once; pytest then writes its results.
        process = subprocess.Popen(
            [*command, str(FOLDER / f"bench_{name}.py")], cwd=machine.ROOT, start_new_session=True
        )
        stopped = False
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            code, stopped = process.wait(), True
        items = json.loads(file.read_text())["benchmarks"] if file.exists() and file.stat().st_size else []
    rows = [row(item) for item in items]
    if code not in (0, 5) and not stopped:
        rows.append({"op": name, "failed": f"pytest ended with {code}"})
    return rows, stopped


def row(item: dict[str, Any]) -> dict[str, Any]:
    stats, info = item["stats"], item["extra_info"]
    times = {"median_seconds": stats["median"], "q1_seconds": stats["q1"], "q3_seconds": stats["q3"]}
    return {**info, **times, "rounds": stats["rounds"], "runs": runs(info["op"], info["implementation"])}


def runs(op: str, implementation: str) -> str:
    """What our implementation runs on this device; "" for the baselines."""
    if implementation.startswith("kernels") or implementation == "captured":
        return "Triton kernels"
    if not implementation.startswith("ours"):
        return ""
    if harness.KIND == "cpu" or op.startswith("optimizer"):
        return "plain ops"
    return "flash attention" if op.startswith("attention") else "Triton kernels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=OPS, default=list(OPS), help="benchmarks to run (default: all)")
    parser.add_argument("--keyword", default="", help="run only the cases that match, as pytest's -k")
    parser.add_argument("--output", type=Path, help="result file (default: bench/results/DEVICE.json)")
    options = parser.parse_args()
    described = machine.describe()
    output = options.output or FOLDER / "results" / f"{machine.slug(described)}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f"{output.stem}-unfinished.json")
    print(f"{len(options.only)} benchmarks on {described['device']}: {expected(options.only, harness.KIND, output)}; "
          f"Ctrl-C keeps the rows measured so far", flush=True)  # fmt: skip
    rows: list[dict[str, Any]] = []
    seconds: dict[str, int] = {}
    document = {"bench": "ops", "machine": described, "rates": harness.rates(), "seconds": seconds, "rows": rows}
    stopped = False
    for number, name in enumerate(options.only, 1):
        print(f"[{number} of {len(options.only)}] {name}", flush=True)
        started = time.monotonic()
        timed, stopped = run(name, options.keyword)
        rows += timed
        if stopped:
            break
        if not options.keyword:
            seconds[name] = round(time.monotonic() - started)
        write_file(unfinished, json.dumps(document, indent=1) + "\n")
    file = unfinished if stopped else output
    write_file(file, json.dumps(document, indent=1) + "\n")
    if not stopped:
        unfinished.unlink(missing_ok=True)
    print(f"\n{op_table(file, document)}\nwrote {file}")
    if stopped:
        sys.exit(130)
    failed = [r["op"] for r in rows if "failed" in r]
    if failed:
        sys.exit(f"these benchmarks failed: {', '.join(failed)}; pytest's output above says why")


if __name__ == "__main__":
    main()
