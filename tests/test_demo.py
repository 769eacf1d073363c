"""The demo in short: the whole path runs, the loss falls, and a word is filled in."""

import json
from pathlib import Path

import pytest

from albert_fast.config import UserError
from albert_fast.demo import DemoOptions, demo
from albert_fast.metrics import read_metrics


def test_a_short_demo(tmp_path, capsys):
    config = tmp_path / "config.json"
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config.write_text(json.dumps({**shape, "vocab_size": 800}))
    output = tmp_path / "demo"
    demo(DemoOptions(output=str(output), steps=60, config=str(config), vocab_size=800))
    losses = [line["mlm_loss"] for line in read_metrics(output / "run")]
    assert losses[-1] < losses[0] - 0.5
    assert (output / "loss.png").stat().st_size > 10_000
    assert (output / "run" / "checkpoint-60" / "model.safetensors").exists()
    shown = capsys.readouterr().out
    assert "An exception is ____ when the value is not found." in shown
    assert "albert-fast fill-mask" in shown


def test_a_folder_that_is_no_demo_is_kept(tmp_path):
    file = Path(tmp_path) / "mine.txt"
    file.write_text("mine")
    with pytest.raises(UserError, match="holds files that no demo wrote"):
        demo(DemoOptions(output=str(tmp_path)))
    assert file.exists()
