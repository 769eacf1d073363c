"""Fine-tuning learns, keeps its best epoch and is reproducible for a given seed."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from support.finetuning import WORDS, options, run, sentences

from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.downstream.columns import ColumnOptions
from albert_fast.downstream.evaluate import EvaluateOptions, evaluate
from albert_fast.metrics import read_metrics
from albert_fast.options import DeviceOptions, UserError


def test_learns_saves_and_predicts(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = run(options(pretrained))
    lines = read_metrics(output)
    scores = [line for line in lines if "dev_accuracy" in line]
    assert len(scores) == 3
    best = max(line["dev_accuracy"] for line in scores)
    assert best >= 0.97
    assert {"loss", "learning_rate", "gradient_norm", "tokens_per_second"} <= lines[0].keys()
    assert not list(output.glob("*state*"))
    test = sentences(output.parent / "test.tsv", 150, 3)
    capsys.readouterr()
    written = output.parent / "predictions.jsonl"
    evaluate(
        EvaluateOptions(model=str(output), test=str(test), predictions=str(written), json=True),
        ColumnOptions(),
        DeviceOptions(device="cpu"),
    )
    said = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in written.read_text().split("\n") if line]
    truth, guesses = [row["label"] for row in rows], [row["prediction"] for row in rows]
    assert said["examples"] == len(rows) == 150
    assert said["accuracy"] == pytest.approx(np.mean(np.array(truth) == guesses))
    assert said["accuracy"] >= 0.97
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probabilities"][row["prediction"]] == max(row["probabilities"].values())
    model = AlbertForSequenceClassification.from_pretrained(output)
    assert model.class_names == ["is no", "is yes"]
    assert model.max_seq_length == 16
    predictions = model.predict([row["text_a"] for row in rows], batch_size=7)
    assert [p.label for p in predictions] == guesses
    for prediction, row in zip(predictions, rows, strict=True):
        assert prediction.probabilities == pytest.approx(row["probabilities"], abs=1e-5)
    dev = [json.loads(line) for line in (output / "dev_predictions.jsonl").read_text().split("\n") if line]
    assert np.mean([row["label"] == row["prediction"] for row in dev]) == best


def test_pairs_of_three_classes(pretrained: Path) -> None:
    """The word occurs in both sentences, only in the first or in neither, so the class depends on the pair."""
    generator = random.Random(4)
    for name, count in (("train", 800), ("dev", 150)):
        with (pretrained.parent / f"{name}.jsonl").open("w") as stream:
            for _ in range(count):
                label = generator.randrange(3)
                a = [generator.choice(WORDS), "yes" if label else "no"]
                b = [generator.choice(WORDS), "yes" if label == 2 else "no"]
                generator.shuffle(a)
                row = {"sentence1": " ".join(a), "sentence2": " ".join(b), "label": label}
                stream.write(json.dumps(row) + "\n")
    files = {name: str(pretrained.parent / f"{name}.jsonl") for name in ("train", "dev")}
    output = run(options(pretrained, **files, epochs=6))
    assert max(line.get("dev_accuracy", 0) for line in read_metrics(output)) >= 0.97
    model = AlbertForSequenceClassification.from_pretrained(output)
    predictions = model.predict([("w1 yes", "w2 yes"), ("w1 yes", "w2 no"), ["no w3", "w9 no"]])
    assert [p.label for p in predictions] == ["2", "1", "0"]
    assert model.predict([]) == []
    with pytest.raises(UserError, match="list of texts"):
        model.predict("w1")
    for wrong in (None, 1, ("w1", "w2", "w3"), ("w1", None)):
        with pytest.raises(UserError, match="strings and pairs of strings, not"):
            model.predict(["w1", wrong])


def test_the_best_checkpoint_is_kept_and_patience_ends_the_run(
    pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The labels of --dev are flipped: the score falls with every epoch that learns, so the first is the best."""
    given = options(pretrained, patience=2, epochs=9, batch_size=50, json=True)
    with open(given.dev, "w") as stream:
        for i in range(80):
            stream.write(f"{WORDS[i % 40]} {'yes' if i % 2 else 'no'}\tis {'no' if i % 2 else 'yes'}\n")
    output = run(given)
    scores = [line["dev_accuracy"] for line in read_metrics(output) if "dev_accuracy" in line]
    assert len(scores) == scores.index(max(scores)) + 3 < 9
    said = json.loads(capsys.readouterr().out)
    assert (said["accuracy"], said["epoch"]) == (max(scores), scores.index(max(scores)) + 1)
    rows = [json.loads(line) for line in (output / "dev_predictions.jsonl").read_text().split("\n") if line]
    model = AlbertForSequenceClassification.from_pretrained(output)
    assert [p.label for p in model.predict([row["text_a"] for row in rows])] == [row["prediction"] for row in rows]
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == max(scores)


def test_seeds(pretrained: Path) -> None:
    outputs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        given = options(pretrained, output=str(pretrained.parent / name), seed=seed, epochs=1)
        outputs[name] = (run(given) / "model.safetensors").read_bytes()
    assert outputs["a"] == outputs["b"] != outputs["c"]


def test_a_dev_file_without_labels_is_refused(pretrained: Path) -> None:
    """Its first evaluation, an epoch later, would have no scores to select a checkpoint by."""
    wanted = options(pretrained)
    texts = (line.split("\t")[0] for line in Path(wanted.dev).read_text().splitlines()[1:])
    Path(wanted.dev).write_text("text\tlabel\n" + "".join(f"{text}\t-\n" for text in texts))
    with pytest.raises(UserError, match="no row has a label"):
        run(wanted)
