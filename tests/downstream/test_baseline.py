"""The bag-of-words baseline, over words and over characters."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import refused
from support.finetuning import options

from albert_fast.cli import main
from albert_fast.downstream.baseline import word_count_accuracy
from albert_fast.downstream.examples import Example


@pytest.mark.parametrize("words", [("good", "bad", "film"), ("好看", "难看", "电影")], ids=["words", "characters"])
def test_the_baseline_learns_from_words(words):
    good, bad, film = words
    rows = [(f"{film} {good}", "1"), (f"{film} {bad}", "0")] * 10
    examples = [Example(text, None, label, "") for text, label in rows]
    assert word_count_accuracy(examples, examples) == 1.0
    pairs = [replace(example, text_b=example.text_a, text_a=film) for example in examples]
    assert word_count_accuracy(pairs, pairs) == 1.0


def test_finetune_reports_the_baseline(pretrained: Path, capsys, monkeypatch):
    flags = options(pretrained, epochs=1)
    names = ("model", "train", "dev", "output", "epochs", "learning_rate", "max_seq_length", "batch_size")
    words = ["finetune", "--device=cpu", "--baseline", *(f"--{name}={getattr(flags, name)}" for name in names)]
    main([*words, "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert scores["baseline_accuracy"] == 1.0  # a single word determines the class
    assert 0 < scores["commonest_class"] <= scores["accuracy"] <= 1
    again = flags.output + "-again"
    main([*words, f"--output={again}"])
    assert "; baseline accuracy 1.0000; " in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "sklearn.pipeline", None)
    assert "pip install scikit-learn" in refused(capsys, *words, f"--output={again}-without")
    assert not Path(f"{again}-without").exists()
