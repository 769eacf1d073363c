"""Shards, checkpoint and run written by commit a820c41 are read, and its run is resumed bitwise identically.

a820c41/ holds a prepared folder, a run of 6 steps truncated to step 4, the 24 micro-batches after the checkpoint's
cursor (into the second epoch), and the weights after step 6, all written by that commit's commands. The tokenizer of
the checkpoint is stored only once, in the prepared folder.
"""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from albert_fast.cli import main
from albert_fast.data.batches import PretrainingLoader
from albert_fast.data.verify import VerifyOptions, verify

MADE = Path(__file__).parent / "a820c41"
MADE_WITH = json.loads((MADE / "made_with.json").read_text())
PADDED = ("cu_seqlens", "sentence_order_labels", "sentence_order_weights")  # padding sequences follow the examples


@pytest.fixture
def old(tmp_path, monkeypatch):
    shutil.copytree(MADE, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")  # the run's options hold relative paths


def test_shards_are_intact(old):
    verify(VerifyOptions(data="corpus"))


def test_the_next_batches_are_the_same(old):
    expected = dict(np.load("batches.npz"))
    cursor = json.loads(Path("run/checkpoint-4/checkpoint.json").read_text())["data"]["cursor"]
    with PretrainingLoader("corpus", tokens_per_batch=256, max_seq_length=48, seed=7, cursor=cursor) as loader:
        for number, batch in enumerate(islice(loader, len(expected["index"]))):
            for name, values in expected.items():
                end = batch.num_sequences + (name == "cu_seqlens") if name in PADDED else None
                found, known = (np.atleast_1d(x)[:end] for x in (getattr(batch, name), values[number]))
                np.testing.assert_array_equal(found, known, f"{name} of {number}")


@pytest.fixture
def as_many_threads():
    """The number of threads determines the order of summation."""
    before = torch.get_num_threads()
    torch.set_num_threads(MADE_WITH["threads"])
    yield
    torch.set_num_threads(before)


def test_the_next_steps_are_the_same(old, as_many_threads):
    main(["pretrain", "--resume", "--output=run"])
    expected, found = load_file("after_step_6.safetensors"), load_file("run/checkpoint-6/model.safetensors")
    assert expected.keys() == found.keys()
    cpuinfo = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n") if ":" in line)
    cpu = " ".join(cpuinfo.get(f"{key}\t", cpuinfo.get(f"{key}\t\t", "")).strip() for key in ("model name", "model"))
    same_sums = (MADE_WITH["torch"], MADE_WITH["cpu"]) == (torch.__version__, cpu)
    rtol, atol = (0, 0) if same_sums else (1e-4, 1e-6)  # other CPUs may round differently
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}")  # noqa: B023
