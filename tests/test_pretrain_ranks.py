"""Several ranks: they share one stream, their number may change on resume, and one failure ends all."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support.crashes import finish, launch, said
from support.pretraining import (
    ENVIRONMENT,
    TWO_RANKS,
    arguments,
    metrics,
    prepared_folder,
    started,
    succeed,
    tensors,
    wait_for_step,
)

from albert_fast.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepared_folder(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def one_rank(folder) -> Path:
    return shared(folder, 1)


def shared(folder: Path, ranks: int) -> Path:
    """The output of four steps on `ranks` ranks, each with 4 / ranks of a step's micro-batches."""
    output = folder / f"ranks-{ranks}"
    command = arguments(
        folder, output, max_steps=4, gradient_accumulation_steps=4 // ranks, optimizer="adamw",
        eval_data=folder / "eval", eval_batches=3,
    )  # fmt: skip
    processes = launch(main, command, ranks=ranks)
    assert finish(processes) == [0] * ranks, said(processes[0])
    return output


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        # The true gradient of the key bias is 0; Adam normalises its rounding noise.
        atol = 0.1 if name.endswith("query_key_value.bias") else 2e-5
        torch.testing.assert_close(actual[name], tensor, atol=atol, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("ranks", [2, 4])
def test_several_ranks_match_one(folder, one_rank, ranks):
    output = shared(folder, ranks)
    assert_close(tensors(output), tensors(one_rank))
    for line, expected in zip(metrics(output), metrics(one_rank), strict=True):
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_failed_rank_stops_all_with_a_message(folder, tmp_path):
    command = arguments(folder, tmp_path / "run", max_steps=5000)
    process = started(*command, launcher=TWO_RANKS, stderr=subprocess.PIPE)
    wait_for_step(tmp_path / "run", 2)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    begun = time.monotonic()
    _, stderr = process.communicate(timeout=90)
    assert process.returncode != 0
    assert time.monotonic() - begun < 60
    assert "SIGKILL" in stderr


FAILING_RANK = """
import sys, time
import torch.distributed as dist
from albert_fast.cli import main
from albert_fast.step import TrainStep

update = TrainStep.update

def fail_at_step_three(self):
    if self.rank == 1 and int(self.optimizer.steps) == 2:
        raise FloatingPointError("planted in rank 1")
    update(self)

TrainStep.update = fail_at_step_three
# As with NCCL while the traceback keeps a CUDA graph with a collective alive.
dist.destroy_process_group = lambda: time.sleep(1000)
main(sys.argv[1:])
"""


def test_an_exception_in_one_rank_ends_all_within_a_minute(folder, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING_RANK)
    command = [*TWO_RANKS, str(tmp_path / "failing.py"), *arguments(folder, tmp_path / "run", max_steps=5000)]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert "planted in rank 1" in result.stderr


def test_a_run_resumes_on_another_number_of_ranks(folder):
    """One rank for four steps equals two ranks for two of them, then one again."""
    whole, parts = folder / "whole", folder / "parts"
    options = dict(max_steps=4, optimizer="adamw", hidden_dropout_prob=0.1, gradient_accumulation_steps=2, save_steps=2)
    succeed(*arguments(folder, whole, **options))
    command = arguments(folder, parts, **options, **{"gradient-accumulation-steps": 1})
    processes = launch(main, command, ranks=2)
    assert finish(processes) == [0, 0]
    for file in (parts / "checkpoint-4").iterdir():
        file.unlink()
    resumed = succeed(*arguments(folder, parts, **options), "--resume")
    assert "2 x 512 = 1,024 tokens" in resumed.stderr
    assert "at micro-batch 4" in resumed.stderr
    assert_close(tensors(parts), tensors(whole))
