"""Evaluation of labelled files, and predictions for files with and without labels and headers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from albert_fast.config import AlbertConfig
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.downstream.columns import ColumnOptions
from albert_fast.downstream.evaluate import EvaluateOptions, evaluate
from albert_fast.options import DeviceOptions, UserError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "sun", "wet", "dry"]
COLUMNS = {"header": ["a", "b", "kind"], "text_a": "a", "text_b": "b", "label": "kind"}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A folder as written by finetune: a pair classifier with the classes no and yes."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "embedding_size": 8, "intermediate_size": 24, "num_attention_heads": 2}
    names = {"id2label": {"0": "no", "1": "yes"}}
    config = AlbertConfig(**sizes, num_hidden_layers=2, vocab_size=len(TOKENS), initializer_range=0.5, extra=names)
    AlbertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    wordpiece_tokenizer(TOKENS).save(tmp_path / "model")
    (tmp_path / "model" / "finetune.json").write_text(json.dumps({"max_seq_length": 16, "columns": COLUMNS}))
    return tmp_path / "model"


def run(model: Path, content: str, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[dict, list[dict], str]:
    """(scores, predictions, standard error)."""
    test, written = model.parent / "test.tsv", model.parent / "written.jsonl"
    test.write_text(content)
    options = EvaluateOptions(model=str(model), test=str(test), predictions=str(written), json=True, **changes)
    evaluate(options, ColumnOptions(), DeviceOptions(device="cpu"))
    notes = capsys.readouterr()
    return json.loads(notes.out), [json.loads(line) for line in written.read_text().splitlines()], notes.err


def test_an_unlabelled_file_with_a_header(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores, predictions, notes = run(classifier, "index\ta\tb\n0\train\twet\n1\tsun\tdry\n", capsys)
    assert scores == {"examples": 2}
    assert [(row["text_a"], row["text_b"]) for row in predictions] == [("rain", "wet"), ("sun", "dry")]
    assert "2 rows; header index, a, b; text a with b; no label" in notes


def test_unlabelled_rows_are_predicted_but_not_scored(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["rain\twet\tyes ", "rain\tdry\t-", "sun\tdry\tno", "sun\twet\tyes"]
    scores, predictions, notes = run(classifier, "\n".join(rows), capsys)
    assert (scores["examples"], scores["labelled"]) == (4, 3)
    scored = [row for row in predictions if "label" in row]
    assert len(predictions) == 4
    right = [row["label"] == row["prediction"] for row in scored]
    assert scores["accuracy"] == pytest.approx(sum(right) / 3)
    assert "unlabelled rows, not used for training or scores: 1" in notes


def test_scores_do_not_depend_on_the_batch_size(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = "rain\twet sun sun\tyes\nrain\tdry\tno\nsun dry wet rain\tdry\tyes\nrain rain\tsun\tyes\nsun\twet\tno\n"
    runs = [run(classifier, content, capsys, batch_size=size) for size in (1, 2, 64)]
    likelihoods = [torch.tensor(row["probabilities"][row["label"]]) for row in runs[0][1]]
    expected = F.nll_loss(torch.stack(likelihoods).log()[:, None], torch.zeros(5, dtype=torch.long)).item()
    for scores, _, _ in runs:
        assert scores["loss"] == pytest.approx(expected, abs=1e-4)
        assert scores["accuracy"] == runs[0][0]["accuracy"]


def test_labels_are_checked_before_anything_is_written(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"line 2: label 'maybe' is not a class; use one of no, yes"):
        run(classifier, "rain\twet\tyes\nrain\tsun\tmaybe\nsun\tdry\tno\n", capsys)
    assert not (classifier.parent / "written.jsonl").exists()


def test_the_title_is_not_wrapped(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = classifier.parent / "a_long_name_of_a_file_without_labels.tsv"
    test.write_text("rain\twet\n")
    evaluate(EvaluateOptions(model=str(classifier), test=str(test)), ColumnOptions(), DeviceOptions(device="cpu"))
    assert capsys.readouterr().out.split("\n")[0] == f"{classifier} on {test}"
