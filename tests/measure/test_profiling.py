"""The profile's stages add up to its step, and its counts see what the step does."""

import json

import pytest
import torch

from albert_fast.cli import main
from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.measure.batch import full_batch
from albert_fast.measure.profiling import ProfileOptions, profile_step
from albert_fast.model import AlbertForPreTraining
from albert_fast.step import TrainStep

SHAPE = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, embedding_size=8)
CONFIG = AlbertConfig(**SHAPE, vocab_size=100)


def profiled(tmp_path, **train):
    batch = full_batch(CONFIG, 128, 32)
    step = TrainStep(AlbertForPreTraining(CONFIG), batch, 32, TrainConfig(**train))
    options = ProfileOptions(steps=2, warm_up=1, trace=str(tmp_path / "trace.json"))
    return profile_step(step, iter([batch] * 100), options)


def test_stages_make_up_the_step(tmp_path):
    result = profiled(tmp_path, gradient_accumulation_steps=2)
    assert set(result["stages_seconds"]) == {"data wait", "forward", "backward", "optimizer"}
    assert all(seconds > 0 for seconds in result["stages_seconds"].values())
    assert sum(result["stages_seconds"].values()) <= 1.5 * result["step_seconds"]
    classes = result["classes_seconds"]
    assert sum(classes.values()) == pytest.approx(sum(row["seconds_per_step"] for row in result["ops"]))
    assert all(seconds > 0 for seconds in classes.values())
    attention = next(row for row in result["ops"] if "flash_attention_for_cpu_backward" in row["op"])
    assert attention["calls_per_step"] == 2 * CONFIG.num_hidden_layers


def test_a_step_shows_no_synchronisation_and_a_look_shows(tmp_path, monkeypatch):
    assert "aten::_local_scalar_dense" not in profiled(tmp_path)["synchronisations_per_step"]
    losses = TrainStep.losses

    def with_a_look(self):
        result = losses(self)
        float(result.mlm_loss.detach())
        return result

    monkeypatch.setattr(TrainStep, "losses", with_a_look)
    assert profiled(tmp_path)["synchronisations_per_step"]["aten::_local_scalar_dense"] == 1


def test_trace_is_chromes(tmp_path):
    profiled(tmp_path)
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"forward", "backward", "optimizer"} <= names


def test_command_prints_tables(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    flags = ["--tokens_per_batch", "64", "--max_seq_length", "32", "--steps", "1", "--warm_up", "0"]
    main(["profile", "--config", str(tmp_path / "config.json"), "--trace", str(tmp_path / "t.json"), *flags])
    out = capsys.readouterr().out
    assert "| backward |" in out
    assert "ops that compute" in out
    stages = [line for line in out.split("Per step")[0].splitlines() if line.endswith("% |")]
    assert sum(float(line.split("|")[-2].strip(" %")) for line in stages) == pytest.approx(100, abs=0.3)
    assert (tmp_path / "t.json").exists()
    assert not torch.is_inference_mode_enabled()
