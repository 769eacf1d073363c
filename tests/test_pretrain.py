"""`albert-fast pretrain`: it learns, resumes bitwise identically, and refuses bad input."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from support.crashes import finish, kill, launch
from support.pretraining import (
    arguments,
    assert_equal,
    assert_same_run,
    metrics,
    prepared_folder,
    refuse,
    started,
    succeed,
    tensors,
    wait_for_step,
)

from albert_fast.cli import main
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.demo import python_topics
from albert_fast.files import locked
from albert_fast.model import AlbertForPreTraining


def evaluated(folder: Path, output: Path, **flags) -> list[str]:
    return arguments(folder, output, eval_data=folder / "eval", eval_steps=20, eval_batches=4, **flags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepared_folder(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def forty_steps(folder) -> Path:
    """The output of a run of forty steps, by a new interpreter."""
    output = folder / "forty"
    process = started(*evaluated(folder, output), stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return output


def test_forty_steps_learn_and_write_the_documented_files(folder, forty_steps):
    lines = metrics(forty_steps)
    held_out = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert [line["step"] for line in held_out] == [20, 40]
    assert lines[-1]["mlm_loss"] < lines[0]["mlm_loss"] - 0.5
    assert held_out[1]["eval_mlm_loss"] < held_out[0]["eval_mlm_loss"]
    names = "loss mlm_loss sop_loss mlm_accuracy sop_accuracy learning_rate gradient_norm".split()  # noqa: SIM905
    assert all(name in line for line in lines for name in names)
    assert sorted(p.name for p in forty_steps.glob("checkpoint-*")) == [
        "checkpoint-30",
        "checkpoint-35",
        "checkpoint-40",
    ]
    assert list((forty_steps / "tensorboard").iterdir())
    model = AlbertForPreTraining.from_pretrained(forty_steps / "checkpoint-40")
    assert torch.equal(model.sop_head.weight, tensors(forty_steps)["sop_head.weight"])
    assert (forty_steps / "checkpoint-40" / "vocab.txt").exists()


def test_seventeen_steps_kill_and_the_rest_equal_forty(folder, forty_steps):
    output = folder / "killed"
    processes = launch(main, evaluated(folder, output))
    wait_for_step(output, 17)
    kill(processes, signal.SIGKILL)
    assert finish(processes) == [-signal.SIGKILL]
    assert len(metrics(output)) < 40
    resumed = succeed("pretrain", f"--output={output}", "--resume")  # the other flags default to the first run's
    assert "resumed from" in resumed.stderr
    assert_same_run(output, forty_steps)


def test_a_signal_ends_the_step_and_saves_it(folder, forty_steps):
    output = folder / "stopped"
    process = started(*evaluated(folder, output, save_steps=1000), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_step(output, 3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "SIGINT" in stdout
    succeed("pretrain", f"--output={output}", "--resume", "--save_steps=5")
    assert_equal(tensors(output), tensors(forty_steps))


def test_a_damaged_checkpoint_is_skipped(folder):
    output = folder / "damaged"
    command = arguments(folder, output, max_steps=15)
    succeed(*command)
    before = tensors(output)
    newest = output / "checkpoint-15" / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    (output / ".checkpoint-40.1.partial").mkdir()  # as left by a crash while saving
    resumed = succeed(*command, "--resume")
    assert "checkpoint-15 is damaged" in resumed.stderr
    assert "checkpoint-10" in resumed.stderr
    assert not list(output.glob(".*.partial"))
    assert_equal(tensors(output), before)


def test_sharing_can_be_loosened_when_resuming(folder):
    output = folder / "loosened"
    command = arguments(folder, output, max_steps=10)
    succeed(*command)
    shared = tensors(output)
    succeed(*command, "--resume", "--share_type=None", "--max-steps=11")
    assert sum("attention" in name for name in tensors(output)) == 3 * sum("attention" in name for name in shared)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"max_seq_length": 513, "tokens_per_batch": 1026}, ["max_seq_length=513", "max_position_embeddings=512"]),
        ({"data": "/nowhere"}, ["/nowhere", "albert-fast prepare"]),
        ({"warmup_steps": 50}, ["warmup_steps=50", "max_steps=40"]),
        ({"config": "tiny", "hidden_dropout_prob": 1.5}, ["hidden_dropout_prob=1.5 must be 0 or more and below 1"]),
        ({"capture": "on"}, ["--capture off"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_line(folder, tmp_path, flags, parts):
    line = refuse(*arguments(folder, tmp_path / "run", **flags))
    for part in parts:
        assert part in line


def test_a_run_is_not_overwritten(folder, forty_steps):
    assert "--resume" in refuse(*arguments(folder, forty_steps))
    assert "seed=4 differs" in refuse(*arguments(folder, forty_steps, seed=4), "--resume")


SHORT = dict(max_steps=4, warmup_steps=0, save_steps=2)


def config_of(output: Path) -> dict:
    return json.loads((output / (output / "last").read_text().strip() / "config.json").read_text())


def test_held_out_documents_may_be_shorter_than_those_of_training(folder):
    text = folder / "short.txt"
    text.write_text("\n\n".join(python_topics().replace("\n\n", "\n").split("\n")[:400]))
    vocab = str(folder / "data" / "vocab.txt")
    prepare(PrepareOptions(input=(str(text),), output=str(folder / "short"), vocab=vocab, workers=1))
    succeed(*arguments(folder, folder / "shorter", **SHORT, eval_data=folder / "short", eval_steps=2))
    assert ["eval_loss" in line for line in metrics(folder / "shorter")] == [False, True, False, True]


def test_held_out_data_is_checked_before_the_first_step(folder, tmp_path):
    given = arguments(folder, tmp_path / "run", eval_data=folder / "none", eval_steps=3)
    assert "there is no such folder" in refuse(*given)
    assert not (tmp_path / "run").exists()


def test_another_vocabulary_of_the_same_size_is_refused(folder, forty_steps, tmp_path):
    tokens = (folder / "data" / "vocab.txt").read_text().split("\n")
    tokens[100], tokens[200] = tokens[200], tokens[100]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    given = dict(input=(str(folder / "held_out.txt"),), output=str(tmp_path / "other"), workers=1)
    prepare(PrepareOptions(**given, vocab=str(tmp_path / "vocab.txt")))
    error = refuse(*arguments(folder, tmp_path / "run", eval_data=tmp_path / "other"))
    assert "ids would stand for other tokens" in error
    error = refuse(*arguments(folder, tmp_path / "run", data=tmp_path / "other", init_from=forty_steps))
    assert "ids would stand for other tokens" in error


def test_falsy_model_options_override_the_config(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "ln_type": "preln", "final_layer_norm": True}))
    given = arguments(folder, tmp_path / "run", **SHORT, config=tmp_path / "config.json", hidden_dropout_prob=0)
    succeed(*given, "--no-final_layer_norm")
    assert config_of(tmp_path / "run")["hidden_dropout_prob"] == 0
    assert config_of(tmp_path / "run")["final_layer_norm"] is False
    error = refuse("pretrain", f"--output={tmp_path / 'run'}", "--resume", "--hidden_dropout_prob=0.4")
    assert "hidden_dropout_prob=0.4 differs from the run's 0" in error


def test_init_from_takes_weights_from_the_run_and_flags_from_the_user(folder, forty_steps, tmp_path):
    changes = dict(init_from=forty_steps, ln_type="preln", hidden_act="gelu_new", share_type="None")
    succeed(*arguments(folder, tmp_path / "run", **{**SHORT, "max_steps": 1, "learning_rate": 1e-9}, **changes))
    config = config_of(tmp_path / "run")
    assert (config["ln_type"], config["hidden_act"], config["share_type"]) == ("preln", "gelu_new", "None")
    before, after = tensors(forty_steps), tensors(tmp_path / "run")
    name = "albert.encoder.feed_forward.{}.intermediate.weight"
    for layer in range(3):
        torch.testing.assert_close(after[name.format(layer)], before[name.format(0)], atol=1e-6, rtol=0)


def test_a_run_is_written_by_one_process_at_a_time(folder, forty_steps):
    with locked(forty_steps, "checkpoints"):
        error = refuse(*arguments(folder, forty_steps), "--resume")
    assert "another run is writing checkpoints" in error


def test_damaged_options_are_named(folder, tmp_path):
    whole = {"data": str(folder), "config": "tiny", "init_from": None, "max_steps": 5}
    lacking = [{k: v for k, v in whole.items() if k != name} for name in ("config", "init_from", "max_steps")]
    other = [{**whole, "data": None}, {**whole, "max_steps": "5"}]
    for text in ("{bad", "[1]", *map(json.dumps, lacking + other)):
        (tmp_path / "options.json").write_text(text)
        assert f"{tmp_path / 'options.json'} is damaged" in refuse("pretrain", f"--output={tmp_path}", "--resume")


def test_weights_are_checked_wherever_they_are_read(folder, tmp_path):
    succeed(*arguments(folder, tmp_path / "run", **SHORT))
    file = tmp_path / "run" / "checkpoint-4" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    error = refuse("fill-mask", f"--model={tmp_path / 'run'}", "--text=the [MASK]")
    assert "its checksum is not the one in checkpoint.json" in error
