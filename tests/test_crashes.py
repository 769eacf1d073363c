"""However a job is interrupted, resuming it gives results bitwise identical to those of an undisturbed job.

`python -m pytest tests/test_crashes.py -m "" -s` tries 200 moments and prints a line for each job.
"""

import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.crashes import USER_ERROR, Job, disturb, finish, kill, launch, recover

from albert_fast.config import AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.downstream.columns import ColumnOptions
from albert_fast.downstream.finetune import FinetuneOptions, finetune
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import DeviceOptions
from albert_fast.pretrain import pretrain
from albert_fast.run import RunOptions

Undisturbed = tuple[Job, dict[str, int], float]
JOBS = ("prepare", "prepare-parts", "pretrain", "pretrain-two-ranks", "finetune", "convert")
RESUMABLE = ("pretrain", "pretrain-two-ranks", "finetune")  # these save their state on a signal
MODEL = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, embedding_size=8)
TRAIN = TrainConfig(max_steps=40, warmup_steps=4, seed=3, device="cpu", capture="off")
DATA = DataConfig(tokens_per_batch=256, max_seq_length=32, loader_threads=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, its prepared folder, a config, a model and labelled sentences."""
    folder, random = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "ru") for b in ("sa", "to", "vi", "xe", "")]
    text = "\n".join(
        "" if number % 12 == 11 else " ".join(random.choice(words, size=random.integers(3, 12)))
        for number in range(6000)
    )
    (folder / "text.txt").write_text(text)
    prepare(PrepareOptions(input=(str(folder / "text.txt"),), output=str(folder / "data"), train_vocab=60, workers=1))
    vocab_size = len((folder / "data" / "vocab.txt").read_text().split())
    config = AlbertConfig(**MODEL, vocab_size=vocab_size, max_position_embeddings=64)
    torch.manual_seed(0)
    AlbertForPreTraining(config).save_pretrained(folder / "model", tokenizer_from=folder / "data")
    rows = (f"{words[n % 5]} {words[n % 7]} {words[n % 3]}\t{n % 2}" for n in range(240))
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def jobs(inputs: Path) -> dict[str, Job]:
    config = inputs / "model" / "config.json"

    def preparing(part: str, output: Path) -> None:
        given = dict(vocab=str(inputs / "model" / "tokenizer.json"), workers=1, shard_tokens=4000, part=part)
        prepare(PrepareOptions(input=(str(inputs / "text.txt"),), output=str(output), **given))

    def pretraining(output: Path, resume: bool) -> None:
        run = RunOptions(data=str(inputs / "data"), output=str(output), resume=resume, save_steps=5, logging_steps=2)
        pretrain(run, ModelOptions(config=str(config)), DATA, TRAIN)

    def finetuning(output: Path, resume: bool) -> None:
        labelled = dict(train=str(inputs / "train.tsv"), dev=str(inputs / "train.tsv"))
        options = FinetuneOptions(
            model=str(inputs / "model"), output=str(output), resume=resume, epochs=2, batch_size=16, save_steps=5,
            max_seq_length=32, learning_rate=1e-3, **labelled,
        )  # fmt: skip
        finetune(options, ColumnOptions(), DeviceOptions(device="cpu"))

    def converting(output: Path) -> None:
        convert(ConvertOptions(checkpoint=str(inputs / "model"), output=str(output), share_type="None"))

    def both_parts(output: Path) -> None:
        preparing("1/2", output)
        preparing("2/2", output)

    weights = ("checkpoint-40/*.safetensors",)
    whole = [
        Job("prepare", lambda o: preparing("1/1", o), lambda o: preparing("1/1", o), ("*.bin", "manifest.json")),
        Job("prepare-parts", both_parts, both_parts, ("*.bin", "manifest.json")),
        Job("pretrain", lambda o: pretraining(o, False), lambda o: pretraining(o, True), weights),
        Job("finetune", lambda o: finetuning(o, False), lambda o: finetuning(o, True), ("*.safetensors",)),
        Job("convert", converting, converting, ("*",)),
    ]
    found = {job.name: job for job in whole}
    return found | {"pretrain-two-ranks": replace(found["pretrain"], name="pretrain-two-ranks", ranks=2)}


@pytest.fixture
def undisturbed(name: str, jobs: dict[str, Job], tmp_path: Path) -> Undisturbed:
    """The job that the test names, the results of an undisturbed run, and its duration in seconds."""
    job, output = jobs[name], tmp_path / "undisturbed"
    begun = time.monotonic()
    assert finish(launch(job.start, output, ranks=job.ranks)) == [0] * job.ranks
    found = job.digest(output)
    assert found
    return job, found, time.monotonic() - begun


def check_recovery(job: Job, output: Path, expected: dict[str, int], codes: list[int]) -> None:
    """Resume a job that ended with `codes`, compare its results with those expected, and remove them."""
    complete = job.digest(output) == expected
    if not complete or (any(codes) and job.resume is not job.start):  # convert refuses a complete output
        recover(job, output)
    assert job.digest(output) == expected
    assert not job.leftovers(output)
    shutil.rmtree(output)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("moments", [2, pytest.param(34, marks=pytest.mark.slow)])
def test_killed_at_any_moment(undisturbed: Undisturbed, tmp_path: Path, moments: int) -> None:
    job, expected, seconds = undisturbed
    killed = 0
    for moment in np.random.default_rng(1).uniform(0, 1.05 * seconds, moments):
        output = tmp_path / "disturbed"
        codes = disturb(job, output, moment, signal.SIGKILL)
        killed += any(code == -signal.SIGKILL for code in codes)
        check_recovery(job, output, expected, codes)
    print(f"{job.name}: {moments} moments, {killed} before the end; bits that differ 0, files left over 0")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow), signal.SIGINT])
@pytest.mark.parametrize("name", RESUMABLE)
def test_a_signal_saves(undisturbed: Undisturbed, tmp_path: Path, name: str, number: signal.Signals) -> None:
    job, expected, _ = undisturbed
    output = tmp_path / "disturbed"
    processes = launch(job.start, output, ranks=job.ranks)
    while not (output / "metrics.jsonl").exists() or not (output / "metrics.jsonl").read_text():
        time.sleep(0.01)
    kill(processes, number)
    check_recovery(job, output, expected, finish(processes))


@pytest.mark.parametrize("name", ["prepare", "pretrain", "finetune", "convert"])
def test_two_processes_in_one_folder(undisturbed: Undisturbed, tmp_path: Path) -> None:
    job, expected, _ = undisturbed
    output = tmp_path / "disturbed"
    first, second = launch(job.start, output), launch(job.start, output)
    codes = finish(first) + finish(second)
    assert 0 in codes
    assert set(codes) <= {0, USER_ERROR}, codes
    assert job.digest(output) == expected


@pytest.mark.parametrize("name", ["prepare", "pretrain", "finetune", "convert"])
def test_a_full_disk(undisturbed: Undisturbed, small_disk: Path) -> None:
    """The disk is full at first and then grows: the job fails with one line, then resumes."""
    job, expected, _ = undisturbed
    output = small_disk / "disturbed"
    refused = 0
    for kilobytes in (64, 96, 128, 192, 256, 65536):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
        function = job.resume if output.exists() and any(output.iterdir()) else job.start
        (code,) = finish(launch(function, output))
        assert code in (0, USER_ERROR), kilobytes
        if code == 0:
            break
        refused += 1
    assert refused  # no job fits the first size
    check_recovery(job, output, expected, [code])


@pytest.mark.parametrize("name", ["prepare", "pretrain", "finetune", "convert"])
def test_an_output_that_cannot_be_written(jobs: dict[str, Job], tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert finish(launch(jobs[name].start, tmp_path / "file" / "below")) == [USER_ERROR]


@pytest.mark.parametrize("name", ["prepare", "pretrain", "finetune"])
def test_the_folder_is_deleted_while_the_job_runs(undisturbed: Undisturbed, tmp_path: Path) -> None:
    job, expected, _ = undisturbed
    output = tmp_path / "disturbed"
    processes = launch(job.start, output)
    while not output.exists() or not any(output.iterdir()):
        time.sleep(0.005)
    shutil.rmtree(output, ignore_errors=True)
    (code,) = finish(processes)
    assert code in (0, USER_ERROR)
    shutil.rmtree(output, ignore_errors=True)
    assert finish(launch(job.start, output)) == [0]
    assert job.digest(output) == expected
