"""Fine-tuning's defaults depend on the model and are reported with a reason; majority-class accuracy is noted."""

import numpy as np
import pytest
import torch
from support.steps import make_step

from albert_fast import checkpoint
from albert_fast.downstream import defaults
from albert_fast.downstream.scores import classification_scores, warn_of_chance
from albert_fast.downstream.texts import EncodedTexts


@pytest.mark.parametrize(
    ("hidden", "spread", "seen", "expected"),
    [
        (768, 0.5, None, (3e-5, "first")),  # published: ALBERT-base, albert_zh's tiny, xxlarge
        (312, 0.5, None, (1e-4, "first")),
        (4096, 0.5, None, (3e-5, "first")),
        (768, 0.5, 10**11, (3e-5, "first")),
        (128, 0.5, 5 * 10**6, (2e-3, "mean")),  # ours, after minutes of pretraining
        (64, 0.01, None, (2e-3, "mean")),  # random weights
        (312, 0.01, 10**6, (8e-4, "mean")),
        (768, 0.01, 10**11, (1e-4, "mean")),
        (4096, 0.01, 10**6, (3e-5, "mean")),
    ],
)
def test_rate_and_pooling_follow_width_and_pretraining(hidden, spread, seen, expected):
    chosen = defaults.choose_defaults(hidden, spread, seen)
    assert (chosen.learning_rate, chosen.pooling) == expected


def test_a_collapsed_backbone_is_reported():
    assert "pretrain longer" in defaults.choose_defaults(312, 1e-4, 10**6).reason
    assert "pretrain longer" not in defaults.choose_defaults(312, 0.006, 10**6).reason


def test_defaults_are_reported_and_given_values_kept(capsys):
    chosen = defaults.choose_defaults(128, 0.01, 5 * 10**6)
    given = {"learning_rate": None, "pooling": "first", "epochs": None}
    assert defaults.fill_in(given, chosen) == {"learning_rate": 2e-3, "pooling": "first", "epochs": chosen.epochs}
    notes = capsys.readouterr().err
    assert (
        f"using --learning_rate 0.002, --epochs {chosen.epochs}: the backbone was pretrained on 5,000,000 tokens"
        in notes
    )
    assert "--pooling mean learns faster here" in notes


class Vectors(torch.nn.Module):
    """A stand-in for a backbone with known first-token vectors."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors)
        self.taken = 0

    def albert(self, batch, rows):
        found = self.vectors[self.taken : self.taken + len(rows)]
        self.taken += len(rows)
        return found


@pytest.mark.parametrize(("vectors", "expected"), [([[3.0, 4.0]] * 80, 0.0), ([[3.0, 4.0], [3.0, -4.0]] * 40, 0.8)])
def test_spread_of_first_tokens(vectors, expected):
    texts = EncodedTexts(np.zeros(80, np.int32), np.zeros(80, np.int32), np.arange(81))
    assert defaults.first_token_spread(Vectors(torch.tensor(vectors)), texts) == pytest.approx(expected)


def test_tokens_seen_by_a_checkpoint(tmp_path):
    saved = checkpoint.save(tmp_path, 3, make_step(), {"cursor": {"index": 3}, "tokens": 192}, tmp_path, keep=1)
    assert defaults.tokens_seen(saved) == 192
    assert defaults.tokens_seen(tmp_path) is None
    older = checkpoint.save(tmp_path, 4, make_step(), {"cursor": {"index": 5}}, tmp_path, keep=1)
    assert defaults.tokens_seen(older) is None
    (tmp_path / "options.json").write_text('{"tokens_per_batch": 64}')
    assert defaults.tokens_seen(older) == 320


def test_accuracy_no_better_than_the_majority_class_is_noted(capsys):
    labels = np.array([0, 0, 0, 1])
    scores = classification_scores(labels, np.zeros(4, int), 2)
    assert scores["accuracy"] == scores["commonest_class"] == 0.75
    warn_of_chance(scores, "dev.tsv")
    assert "0.7500 on dev.tsv does not beat always predicting its majority class (0.7500)" in capsys.readouterr().err
    warn_of_chance(classification_scores(labels, labels, 2), "dev.tsv")
    assert capsys.readouterr().err == ""
