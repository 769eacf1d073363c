"""`make bench`: expected duration, what "ours" runs on each device, and rows kept after an interruption."""

import json
import os
import signal
import subprocess
import sys

import pytest

from bench import harness, machine
from bench.run import CPU_SECONDS, expected, runs

COMMAND = [sys.executable, "-m", "bench.run", "--only", "add_layer_norm"]
# pytest-benchmark disables itself in a process that seems to be a worker of pytest-xdist.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}


def test_expected_duration_comes_from_the_last_run(tmp_path):
    file = tmp_path / "card.json"
    assert expected(["attention", "step"], "cpu", file) == f"about {round(2 * CPU_SECONDS / 60)} min"
    assert "unknown" in expected(["attention"], "cuda", file)
    file.write_text(json.dumps({"seconds": {"attention": 200, "step": 100}}))
    assert expected(["attention", "step"], "cuda", file) == "about 5 min"


def test_description_of_ours_depends_on_the_device(monkeypatch):
    rows = [("gelu_ffn", "torch"), ("gelu_ffn", "ours"), ("optimizer", "ours-lamb"), ("optimizer", "kernels-lamb")]
    monkeypatch.setattr(harness, "KIND", "cpu")
    assert [runs(*row) for row in rows] == ["", "plain ops", "plain ops", "Triton kernels"]
    monkeypatch.setattr(harness, "KIND", "cuda")
    assert [runs(*row) for row in rows] == ["", "Triton kernels", "plain ops", "Triton kernels"]


@pytest.mark.slow
def test_rows_are_written(tmp_path):
    file = tmp_path / "out.json"
    command = [*COMMAND, "--keyword", "tiny", "--output", str(file)]
    subprocess.run(command, check=True, cwd=machine.ROOT, env=ENVIRONMENT)
    rows = json.loads(file.read_text())["rows"]
    assert {row["implementation"] for row in rows} >= {"torch", "ours"}
    assert all(row["median_seconds"] > 0 and row["small_cpu_shape"] for row in rows)


@pytest.mark.slow
def test_interrupted_run_keeps_its_rows(tmp_path):
    file = tmp_path / "out.json"
    command = [*COMMAND, "--output", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=machine.ROOT, env=ENVIRONMENT)
    assert b"about 1 min" in process.stdout.readline()
    assert b"[1 of 1] add_layer_norm" in process.stdout.readline()
    assert process.stdout.read(1) == b"."  # the first row
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 130
    assert not file.exists()
    rows = json.loads((tmp_path / "out-unfinished.json").read_text())["rows"]
    assert rows[0]["median_seconds"] > 0
    assert b"| add_layer_norm | forward | tiny |" in printed
