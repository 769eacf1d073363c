"""A run's folder: what a run may be resumed with, moved files, and how a failing run ends."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.commands import refused
from support.pretraining import TWO_RANKS, started, tensors, wait_for_step

from albert_fast import checkpoint
from albert_fast.cli import main
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.verify import VerifyOptions, verify
from albert_fast.demo import python_topics
from albert_fast.metrics import read_metrics
from albert_fast.step import TrainStep

SHAPE = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, embedding_size=8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A small prepared folder and a config beside it."""
    root = tmp_path_factory.mktemp("prepared")
    (root / "text.txt").write_text("\n\n".join(python_topics().split("\n\n")[:8]))
    prepare(PrepareOptions(input=(str(root / "text.txt"),), output=str(root / "data"), train_vocab=300, workers=1))
    (root / "config.json").write_text(json.dumps({**SHAPE, "vocab_size": 300}))
    return root


@pytest.fixture
def root(prepared, tmp_path) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def command(root: Path, **flags) -> list[str]:
    flags = {
        "data": root / "data", "output": root / "run", "config": root / "config.json", "tokens_per_batch": 128,
        "max_seq_length": 32, "max_steps": 4, "save_steps": 2, "logging_steps": 1, "loader_threads": 1, **flags,
    }  # fmt: skip
    return ["pretrain", *(f"--{name}={value}" for name, value in flags.items() if value is not None)]


def test_data_and_config_may_move_but_not_change(root, capsys):
    main(command(root, output=root / "whole"))
    main(command(root))
    shutil.rmtree(root / "run" / "checkpoint-4")
    (root / "data").rename(root / "moved")
    (root / "config.json").rename(root / "moved.json")
    resume = ["pretrain", f"--output={root / 'run'}", "--resume"]
    assert "give its new location with --data" in refused(capsys, *resume)
    resume.append(f"--data={root / 'moved'}")
    (root / "other.json").write_text(json.dumps({**SHAPE, "vocab_size": 300, "intermediate_size": 64}))
    assert "holds another model" in refused(capsys, *resume, f"--config={root / 'other.json'}")
    main([*resume, f"--config={root / 'moved.json'}"])
    run = tensors(root / "run")
    whole = load_file(root / "whole" / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(run[name], whole[name]) for name in whole)
    (root / "other.txt").write_text((root / "text.txt").read_text()[:9000])
    given = dict(input=(str(root / "other.txt"),), vocab=str(root / "moved" / "vocab.txt"), workers=1)
    prepare(PrepareOptions(**given, output=str(root / "data")))
    other = refused(capsys, *resume[:-1], f"--data={root / 'data'}")
    assert "the shards, the seed or a setting" in other


def test_changed_data_is_refused_without_a_checkpoint_too(root, capsys):
    main(command(root))
    for folder in (root / "run").glob("checkpoint-*"):
        shutil.rmtree(folder)
    options = json.loads((root / "run" / "options.json").read_text())
    (root / "run" / "options.json").write_text(json.dumps({**options, "stream": "another"}))
    assert "holds other shards" in refused(capsys, *command(root, resume="")[:-1], "--resume")


def test_max_sequences_defaults_to_that_of_the_cursor(root, capsys):
    main(command(root, max_sequences=9))
    file = root / "run" / "options.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_sequences": None}))
    resume = ["pretrain", f"--output={root / 'run'}", "--resume", "--max_steps=6"]
    assert "a setting of the batches changed" in refused(capsys, *resume, "--max_sequences=8")
    main(resume)
    found = checkpoint.find(root / "run")
    assert (found.step, found.data["cursor"]["max_sequences"]) == (6, 9)


def test_a_finished_run_says_so_and_a_larger_max_steps_continues_it(root, capsys):
    main(command(root))
    resume = ["pretrain", f"--output={root / 'run'}", "--resume"]
    main(resume)
    assert "max_steps=4 was already reached" in capsys.readouterr().out
    main([*resume, "--max_steps=6"])
    shown = capsys.readouterr()
    assert "the learning rate follows the new schedule from step 4 on" in shown.err
    assert "step 6: done" in shown.out


def test_warmup_defaults_to_a_fraction_of_max_steps(root, capsys):
    main(command(root, max_steps=80, logging_steps=80, save_steps=80))
    shown = capsys.readouterr().err
    assert json.loads((root / "run" / "options.json").read_text())["warmup_steps"] == 2
    assert "layout zh (as in albert_zh) cannot be exported to HuggingFace" in shown
    assert "step 80 of 80  loss" in shown


def test_a_run_of_nan_ends_with_3_and_keeps_its_good_checkpoints(root, capsys, monkeypatch):
    main(command(root, max_steps=30, save_steps=2, keep_checkpoints=2))
    before = {path.name for path in (root / "run").glob("checkpoint-*")}
    losses = TrainStep.losses

    def not_a_number(self):
        found = losses(self)
        found.mlm_loss = found.mlm_loss * float("nan")
        return found

    monkeypatch.setattr(TrainStep, "losses", not_a_number)
    resume = ["pretrain", f"--output={root / 'run'}", "--resume", "--max_steps=100", "--max_skipped_updates=7"]
    error = refused(capsys, *resume, code=3)
    assert "step 37: the last 7 updates were skipped" in error
    assert "first step 31, gradient norm nan" in error
    assert before <= {path.name for path in (root / "run").glob("checkpoint-*")}
    assert read_metrics(root / "run")[-1]["loss"] is None
    monkeypatch.undo()
    for step in (32, 34, 36):
        shutil.rmtree(root / "run" / f"checkpoint-{step}")
    main(resume)
    assert torch.stack([t.isfinite().all() for t in tensors(root / "run").values()]).all()


def test_a_resumed_run_counts_every_token(root):
    """Checkpoints lie between log lines, and a killed run resumes from one."""
    flags = dict(max_steps=8, save_steps=3, logging_steps=4)
    main(command(root, output=root / "whole", **flags))
    main(command(root, **flags))
    for step in (6, 8):
        shutil.rmtree(root / "run" / f"checkpoint-{step}")
    main([*command(root, **flags), "--resume"])
    whole, resumed = (
        [(line["step"], line["tokens_seen"], line["loss"]) for line in read_metrics(root / name)]
        for name in ("whole", "run")
    )
    assert whole == resumed
    assert [step for step, *_ in whole] == [3, 4, 6, 8]


def test_weights_that_overflow_are_not_saved(root, capsys):
    error = refused(capsys, *command(root, optimizer="adamw", learning_rate="1e39", warmup_steps=0), code=3)
    assert "weights are not finite" in error
    assert not list((root / "run").glob("checkpoint-*"))


def test_log_tensors_logs_the_ratios_of_every_tensor(root):
    main([*command(root), "--log_tensors"])
    line = read_metrics(root / "run")[-1]
    assert line["tokens_seen"] > 0
    assert line["flops_per_second"] > 0
    ratios, names = line["update_ratio"], tensors(root / "run")
    assert ratios.keys() == names.keys()
    matrix = "albert.embeddings.word_embeddings.weight"
    assert ratios[matrix] == pytest.approx(line["learning_rate"], rel=1e-3)  # LAMB's trust makes them equal
    assert line["trust_ratio"][matrix] > 0
    assert "albert.encoder.attention.0.query_key_value.weight.2" in line["trust_ratio"]


def test_a_config_that_pads_the_vocabulary_is_trained(root, capsys):
    """Published models round up to a multiple of 64; padding ids have no token and are never predicted."""
    (root / "config.json").write_text(json.dumps({**SHAPE, "vocab_size": 320}))
    main(command(root, max_steps=1))
    assert "vocab_size=320" in capsys.readouterr().err
    config = json.loads((root / "run" / "checkpoint-1" / "config.json").read_text())
    assert (config["vocab_size"], config["real_vocab_size"]) == (320, 300)
    # With a checkpoint, its tokenizer says which tokens are real, so any amount of padding is allowed.
    main(command(root, config=None, init_from=root / "run", output=root / "more", max_steps=1))
    assert "is ignored" not in capsys.readouterr().err
    main(command(root, config="small", init_from=root / "run", output=root / "same", max_steps=1))
    assert f"config=small is ignored: the config of {root / 'run'}" in capsys.readouterr().err
    (root / "config.json").write_text(json.dumps({**SHAPE, "vocab_size": 333}))
    assert "does not match the 300 tokens" in refused(capsys, *command(root, output=root / "odd"))


def test_attention_dropout_of_a_config_can_be_turned_off(root, capsys):
    (root / "config.json").write_text(json.dumps({**SHAPE, "vocab_size": 300, "attention_probs_dropout_prob": 0.1}))
    assert "give --attention_probs_dropout_prob 0" in refused(capsys, *command(root))
    main(command(root, max_steps=1, attention_probs_dropout_prob=0))
    config = json.loads((root / "run" / "checkpoint-1" / "config.json").read_text())
    assert config["attention_probs_dropout_prob"] == 0


@pytest.mark.parametrize(
    ("folder", "output"),
    [("data", "data"), ("data", "data/run"), ("held_out", "held_out/a"), ("held_out", "link/run")],
)
def test_an_output_in_a_prepared_folder_is_refused(root, capsys, folder, output):
    (root / "link").symlink_to("held_out")
    shutil.copytree(root / "data", root / "held_out")
    error = refused(capsys, *command(root, output=root / output, eval_data=root / "held_out"))
    assert error.count("\n") == 1
    assert f"output={root / output} is inside the prepared folder {root / folder}" in error
    verify(VerifyOptions(data=str(root / folder)))


def test_two_ranks_save_the_same_step_on_a_signal(root):
    flags = dict(max_steps=4000, save_steps=4000, logging_steps=5, learning_rate=1e-4)
    with open(root / "log", "w") as log:
        process = started(*command(root, **flags), launcher=TWO_RANKS, stdout=log, stderr=log)
        wait_for_step(root / "run", 1)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=100)
    step = read_metrics(root / "run")[-1]["step"]
    assert (root / "run" / "last").read_text() == f"checkpoint-{step}\n"
    assert step < 4000
    assert step % 5 == 0
    assert f"step {step}: stopped by SIGTERM; resume with --resume" in (root / "log").read_text()
