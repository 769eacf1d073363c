"""Comparison of recorded outputs with the converted model names the differing outputs."""

from pathlib import Path

import numpy as np
import pytest
from support.conversions import SIZES, fixture, run

from albert_fast.config import AlbertConfig
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError


def test_a_wrong_config_is_detected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix, _, outputs = fixture("zh-postln")
    wrong = tmp_path / "config.json"
    wrong.write_text(fixture("zh-postln")[1].read_text().replace("postln", "preln"))
    with pytest.raises(UserError, match=r"all_encoder_layers layer 1.* differ by up to .* more than 5e-05"):
        run(prefix, tmp_path / "out", config=str(wrong), check=str(outputs))
    assert "embedding_output" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_recorded_outputs_of_another_model(tmp_path: Path) -> None:
    AlbertForPreTraining(AlbertConfig(**SIZES, num_hidden_layers=2)).save_pretrained(tmp_path / "ours")
    ids = np.array([[1, 2, 3]])
    for name, arrays, message in (
        ("ids", {"input_ids": ids + 9999}, "cannot process the recorded inputs"),
        ("text", {"input_ids": np.array([["a", "b"]])}, "cannot process the recorded inputs"),
        ("layers", {"input_ids": ids, "all_encoder_layers": np.zeros((1, 1, 3, 16))}, "has 1 layers, but the model"),
    ):
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(UserError, match=message):
            run(tmp_path / "ours", tmp_path / "again", check=str(tmp_path / f"{name}.npz"))
