"""`make bench`: every op and the step, into one JSON: `python -m bench.run [--only NAME ...] [--output FILE]`.

It says how long it will take before it starts, and what "ours" runs on this device beside each row. Rows are kept as
each bench ends: a run that is stopped leaves them in NAME-unfinished.json.
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

# Of one bench, starting and compiling included, as two CPU cores took it; a device's last run knows better.
CPU_SECONDS = 70
FOLDER = Path(__file__).parent


def expected(names: list[str], kind: str, output: Path) -> str:
    """How long the benches `names` will take, by this device's last run or, on a CPU, by another's."""
    before = json.loads(output.read_text()).get("seconds", {}) if output.exists() else {}
    if kind != "cpu" and not before.keys() >= set(names):
        return "how long they take will be known after a first run on this device"
    seconds = sum(before.get(name, CPU_SECONDS) for name in names)
    return f"about {max(round(seconds / 60), 1)} min"


def run(name: str, keyword: str = "") -> tuple[list[dict[str, Any]], bool]:
    """The rows of a bench, in a process of its own so that one that dies loses no other; and whether it was stopped."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "out.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-enable"]
        command += ["--benchmark-quiet", "--disable-warnings", f"--benchmark-json={file}"]
        command += ["-k", keyword] if keyword else []
        # A session of its own: Ctrl-C comes here alone, is handed on once, and pytest then writes what it has.
        process = subprocess.Popen(
            [*command, str(FOLDER / f"bench_{name}.py")], cwd=machine.ROOT, start_new_session=True
        )
        stopped = False
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            code, stopped = process.wait(), True
        made = json.loads(file.read_text())["benchmarks"] if file.exists() and file.stat().st_size else []
    rows = [row(item) for item in made]
    if code not in (0, 5) and not stopped:
        rows.append({"op": name, "failed": f"pytest ended with {code}"})
    return rows, stopped


def row(item: dict[str, Any]) -> dict[str, Any]:
    stats, info = item["stats"], item["extra_info"]
    times = {"median_seconds": stats["median"], "q1_seconds": stats["q1"], "q3_seconds": stats["q3"]}
    return {**info, **times, "rounds": stats["rounds"], "runs": runs(info["op"], info["implementation"])}


def runs(op: str, implementation: str) -> str:
    """What a row of ours runs on this device; "" for the others."""
    if implementation.startswith("kernels") or implementation == "captured":
        return "Triton kernels"
    if not implementation.startswith("ours"):
        return ""
    if harness.KIND == "cpu" or op.startswith("optimizer"):
        return "plain ops"
    return "flash attention" if op.startswith("attention") else "Triton kernels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=OPS, default=list(OPS))
    parser.add_argument("--keyword", default="", help="pytest's -k: run what it matches alone")
    parser.add_argument("--output", type=Path, help="default: bench/results/DEVICE.json")
    options = parser.parse_args()
    described = machine.describe()
    output = options.output or FOLDER / "results" / f"{machine.slug(described)}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f"{output.stem}-unfinished.json")
    print(f"{len(options.only)} benches on {described['device']}: {expected(options.only, harness.KIND, output)}; "
          f"Ctrl-C keeps what is measured", flush=True)  # fmt: skip
    rows: list[dict[str, Any]] = []
    seconds: dict[str, int] = {}
    document = {"bench": "ops", "machine": described, "rates": harness.rates(), "seconds": seconds, "rows": rows}
    stopped = False
    for number, name in enumerate(options.only, 1):
        print(f"[{number} of {len(options.only)}] {name}", flush=True)
        began = time.monotonic()
        made, stopped = run(name, options.keyword)
        rows += made
        if stopped:
            break
        if not options.keyword:
            seconds[name] = round(time.monotonic() - began)
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
        sys.exit(f"these benches failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
