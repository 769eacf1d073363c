"""A short demo: the whole pipeline runs and the loss falls."""

import json

import pytest

from albert_fast.demo import MARK, DemoOptions, demo
from albert_fast.metrics import read_metrics
from albert_fast.options import UserError


def test_a_short_demo(tmp_path, capsys, monkeypatch):
    config = tmp_path / "config.json"
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config.write_text(json.dumps({**shape, "vocab_size": 800}))
    output = tmp_path / "demo"
    monkeypatch.setattr("albert_fast.demo._fitting_steps", lambda *_: 60)  # on a busy machine fewer would fit
    demo(DemoOptions(output=str(output), config=str(config), vocab_size=800))
    losses = [line["mlm_loss"] for line in read_metrics(output / "run")]
    assert losses[-1] < losses[0] - 0.5
    assert (output / "loss.png").stat().st_size > 10_000
    assert (output / "run" / "checkpoint-60" / "model.safetensors").exists()
    shown = capsys.readouterr().out
    for part in ("An exception is ____ when", "guessing by frequency", "| attention |", "decoder + cross entropy"):
        assert part in shown
    assert (output / "memory.png").stat().st_size > 10_000
    assert "albert-fast fill-mask" in shown


@pytest.mark.parametrize("names", [["mine.txt"], ["text.txt"], [MARK, "mine.txt"]])
def test_a_folder_not_written_by_a_demo_is_kept(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="not written by a demo"):
        demo(DemoOptions(output=str(tmp_path)))
    assert [(tmp_path / name).read_text() for name in names] == ["mine"] * len(names)


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"config": "none"}])
def test_a_demo_with_bad_options_keeps_the_previous_one(tmp_path, wrong):
    (tmp_path / MARK).touch()
    (tmp_path / "text.txt").write_text("of the previous demo")
    with pytest.raises(UserError):
        demo(DemoOptions(output=str(tmp_path), **wrong))
    assert (tmp_path / "text.txt").exists()
