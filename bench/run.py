"""`make bench`: every op and the step, into one JSON: `python -m bench.run [--only NAME ...] [--output FILE]`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import harness, machine
from bench.timed_ops import OPS

FOLDER = Path(__file__).parent


def run(names: list[str], keyword: str = "") -> list[dict[str, Any]]:
    """Rows of the benches `names`, each in a process of its own so that one that dies loses no other."""
    rows: list[dict[str, Any]] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "out.json"
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-enable"]
            command += ["--benchmark-columns=median,iqr,rounds", "--benchmark-sort=name", f"--benchmark-json={file}"]
            command += ["-k", keyword] if keyword else []
            code = subprocess.run(
                [*command, str(FOLDER / f"bench_{name}.py")], cwd=machine.ROOT, check=False
            ).returncode
            if file.exists() and file.stat().st_size:
                rows += [row(item) for item in json.loads(file.read_text())["benchmarks"]]
            if code not in (0, 5):
                rows.append({"op": name, "failed": f"pytest ended with {code}"})
    return rows


def row(item: dict[str, Any]) -> dict[str, Any]:
    stats = item["stats"]
    times = {"median_seconds": stats["median"], "q1_seconds": stats["q1"], "q3_seconds": stats["q3"]}
    return {**item["extra_info"], **times, "rounds": stats["rounds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=OPS, default=list(OPS))
    parser.add_argument("--keyword", default="", help="pytest's -k: run what it matches alone")
    parser.add_argument("--output", type=Path, help="default: bench/results/DEVICE.json")
    options = parser.parse_args()
    described = machine.describe()
    rows = run(options.only, options.keyword)
    document = {"bench": "ops", "machine": described, "rates": harness.rates(), "rows": rows}
    output = options.output or FOLDER / "results" / f"{machine.slug(described)}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {output}")
    failed = [r["op"] for r in rows if "failed" in r]
    if failed:
        sys.exit(f"these benches failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
