"""Fine-tuning learns, keeps its best, resumes to the bit, and its classifier computes what HuggingFace's does."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
import transformers
from safetensors.torch import load_file

from albert_fast.config import AlbertConfig
from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.data.tokenizer import wordpiece_tokenizer
from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.downstream.columns import ColumnOptions
from albert_fast.downstream.evaluate import EvaluateOptions, evaluate
from albert_fast.downstream.finetune import finetune
from albert_fast.downstream.finetune_options import FinetuneOptions
from albert_fast.downstream.finetune_run import FinetuneRun
from albert_fast.downstream.texts import encode_texts
from albert_fast.files import locked
from albert_fast.metrics import read_metrics
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import DeviceOptions, UserError

WORDS = [f"w{i}" for i in range(40)]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "yes", "no", "maybe"]
SIZES = {"hidden_size": 32, "embedding_size": 16, "intermediate_size": 64, "num_attention_heads": 2}
LAYERS = {"num_hidden_layers": 2, "vocab_size": len(TOKENS), "max_position_embeddings": 32}


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A folder with a small random model and its vocabulary."""
    torch.manual_seed(0)
    AlbertForPreTraining(AlbertConfig(**SIZES, **LAYERS, initializer_range=0.1)).save_pretrained(tmp_path / "model")
    wordpiece_tokenizer(TOKENS).save(tmp_path / "model")
    return tmp_path / "model"


def sentences(file: Path, count: int, seed: int, kinds: tuple[str, ...] = ("yes", "no")) -> Path:
    """Random words around one that gives the class away."""
    generator = random.Random(seed)
    with file.open("w") as stream:
        for _ in range(count):
            words = [generator.choice(WORDS) for _ in range(generator.randrange(3, 9))]
            kind = generator.choice(kinds)
            words.insert(generator.randrange(len(words)), kind)
            stream.write(f"{' '.join(words)}\tis {kind}\n")
    return file


def options(pretrained: Path, **changes: Any) -> FinetuneOptions:
    folder = pretrained.parent
    train, dev = folder / "train.tsv", folder / "dev.tsv"
    if not train.exists():
        sentences(train, 300, 1)
        sentences(dev, 100, 2)
    flags = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "max_seq_length": 16, "save_steps": 7}
    files = {"model": str(pretrained), "train": str(train), "dev": str(dev), "output": str(folder / "run")}
    return FinetuneOptions(**(files | flags | changes))


def run(given: FinetuneOptions, columns: ColumnOptions | None = None) -> Path:
    finetune(given, columns or ColumnOptions(), DeviceOptions(device="cpu"))
    return Path(given.output)


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
    assert said["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, guesses))
    assert said["f1"] == pytest.approx(sklearn.metrics.f1_score(truth, guesses, pos_label="is yes"))
    assert said["matthews"] == pytest.approx(sklearn.metrics.matthews_corrcoef(truth, guesses))
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
    """A word occurs in both sentences, in the first alone or in neither: only the pair tells."""
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


def command(given: FinetuneOptions) -> list[str]:
    flags = [f"--{name}={value}" for name, value in vars(given).items() if value not in (None, False)]
    return [sys.executable, "-m", "albert_fast", "finetune", "--device=cpu", *flags]


def comparable(output: Path) -> tuple[Any, ...]:
    lines = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_metrics(output)]
    return (output / "model.safetensors").read_bytes(), (output / "dev_predictions.jsonl").read_bytes(), lines


def test_killed_and_resumed_to_the_bit(pretrained: Path) -> None:
    given = options(pretrained, hidden_dropout_prob=0.1, logging_steps=5)
    whole = run(given)
    stopped = replace(given, output=str(pretrained.parent / "stopped"))
    process = subprocess.Popen(command(stopped), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    file = Path(stopped.output) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not file.exists() or len(file.read_text().split("\n")) < 8:  # in the second epoch, between two states
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (Path(stopped.output) / "training_state.safetensors").exists()
    with pytest.raises(UserError, match=r"holds files already; give --resume"):
        run(stopped)
    with pytest.raises(UserError, match=r"learning_rate=0.5 differs from the run's 0.003"):
        run(replace(stopped, resume=True, learning_rate=0.5))
    run(replace(stopped, resume=True))
    for before, after in zip(comparable(whole), comparable(Path(stopped.output)), strict=True):
        assert before == after
    with pytest.raises(UserError, match="has ended"):
        run(replace(stopped, resume=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, pretrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At step 12, between two states and two log lines; every file is as if nothing had happened."""
    given = options(pretrained, epochs=2, logging_steps=5, hidden_dropout_prob=0.1)
    whole = run(replace(given, output=str(pretrained.parent / "whole")))
    capsys.readouterr()
    advance = FinetuneRun.advance

    def interrupted(self: FinetuneRun, *arguments: Any) -> None:
        advance(self, *arguments)
        if self.step == 12:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "advance", interrupted)
        run(given)
    said = capsys.readouterr()
    assert f"step 12: stopped by {number.name}; go on with --resume" in said.out
    assert "nothing was learnt" not in said.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = run(replace(given, resume=True))
    assert "at step 12" in capsys.readouterr().err
    for before, after in zip(comparable(whole), comparable(again), strict=True):
        assert before == after


def test_moved_files_go_on(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and model are compared by content: other paths, or the same spelt otherwise, are the same run."""
    given = options(pretrained, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "evaluated", stop)
        with pytest.raises(KeyboardInterrupt):
            run(given)
    moved = pretrained.parent / "moved"
    moved.mkdir()
    changes = {}
    for name in ("model", "train", "dev"):
        changes[name] = str(Path(getattr(given, name)).rename(moved / name))
    output = run(replace(given, resume=True, **changes))
    assert (output / "dev_predictions.jsonl").exists()


def test_resumed_before_the_first_log_line(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left by a run that stopped right after its start is a run like others."""
    given = options(pretrained, epochs=1)
    whole = run(replace(given, output=str(pretrained.parent / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "advance", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(given)
    for before, after in zip(comparable(whole), comparable(run(replace(given, resume=True))), strict=True):
        assert before == after


def test_the_best_checkpoint_is_kept_and_patience_ends_the_run(
    pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels of --dev are turned round: every epoch that learns makes the score worse, so the first is the best."""
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


def test_the_mean_of_all_tokens(pretrained: Path) -> None:
    output = run(options(pretrained, pooling="mean"))
    assert max(line.get("dev_accuracy", 0) for line in read_metrics(output)) >= 0.97
    model = AlbertForSequenceClassification.from_pretrained(output)
    backbone = AlbertForPreTraining(model.config)
    backbone.load_state_dict(
        {**backbone.state_dict(), **{n: t for n, t in model.state_dict().items() if "albert" in n}}
    )
    ids = torch.tensor([model.tokenizer.encode_pair("w1 yes w3", None, 16)[0]])
    with torch.no_grad():
        mean = backbone(ids).last_hidden_state[0].mean(0)
        expected = model.classifier(torch.tanh(model.albert.pooler(mean))).softmax(-1)
    assert list(model.predict(["w1 yes w3"])[0].probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(UserError, match="mean vector cannot be written for HuggingFace"):
        convert(ConvertOptions(checkpoint=str(output), output=str(output.parent / "hf"), to="huggingface"))


def test_a_run_goes_on_with_its_own_labels_and_precision_only(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options(pretrained)
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "evaluated", stop)
        with pytest.raises(KeyboardInterrupt):
            run(given)
    again = options(pretrained, resume=True)
    with pytest.raises(UserError, match="precision=bfloat16 differs from the run's float32"):
        finetune(again, ColumnOptions(), DeviceOptions(device="cpu", precision="bf16"))
    with locked(Path(given.output), "checkpoints"), pytest.raises(UserError, match="another run is writing"):
        run(again)
    train = Path(given.train)
    text = train.read_text()
    train.write_text(text.replace("is yes", "is x").replace("is no", "is yes").replace("is x", "is no"))
    with pytest.raises(UserError, match="data_crc32c"):
        run(again)
    train.write_text(text)
    run(again)


def stop(*_: Any) -> bool:
    raise KeyboardInterrupt


def test_seeds(pretrained: Path) -> None:
    outputs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        given = options(pretrained, output=str(pretrained.parent / name), seed=seed, epochs=1)
        outputs[name] = (run(given) / "model.safetensors").read_bytes()
    assert outputs["a"] == outputs["b"] != outputs["c"]


def test_a_classifier_is_trained_further(pretrained: Path) -> None:
    first = run(options(pretrained))
    more = options(pretrained, model=str(first), output=str(pretrained.parent / "more"), epochs=1, learning_rate=1e-9)
    second = run(more)
    for name, tensor in load_file(first / "model.safetensors").items():
        torch.testing.assert_close(load_file(second / "model.safetensors")[name], tensor, atol=1e-6, rtol=0)
    other = sentences(pretrained.parent / "other.tsv", 60, 5, ("yes", "no", "maybe"))
    third = run(replace(more, train=str(other), dev=str(other), output=str(pretrained.parent / "third")))
    assert len(AlbertForSequenceClassification.from_pretrained(third).class_names) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_length": 64}, "max_seq_length=64 is over the model's max_position_embeddings=32"),
        ({"epochs": 0}, "epochs=0 must be 1 or more"),
        ({"train": "absent.tsv"}, "absent.tsv: No such file"),
        ({"model": "absent"}, "absent/model.safetensors"),
        ({"dev": "OTHER"}, r"line 1: label 'is maybe' is none of the classes \(the classes are is no, is yes\)"),
        ({"train": "OTHER", "dev": "OTHER"}, "every label is 'is maybe'"),
    ],
    ids=["length", "epochs", "file", "model", "label", "one-class"],
)
def test_bad_input_is_refused(pretrained: Path, changes: dict[str, Any], message: str) -> None:
    other = sentences(pretrained.parent / "other.tsv", 5, 5, ("maybe",))
    changes = {name: str(other) if value == "OTHER" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message):
        run(options(pretrained, **changes))
    assert not (pretrained.parent / "run").exists()


def test_logits_equal_huggingface(tmp_path: Path) -> None:
    """The same weights and classifier in HuggingFace's AlbertForSequenceClassification, padded; ours packed."""
    shape = transformers.AlbertConfig(**SIZES, **LAYERS, num_labels=3)
    torch.manual_seed(1)
    theirs = transformers.AlbertForSequenceClassification(shape).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.albert.save_pretrained(tmp_path / "hf")
    convert(ConvertOptions(checkpoint=str(tmp_path / "hf"), output=str(tmp_path / "ours"), new_heads=True))
    config = AlbertConfig.from_pretrained(tmp_path / "ours")
    ours = AlbertForSequenceClassification(config.replace(extra={"id2label": {"0": "a", "1": "b", "2": "c"}})).eval()
    weights = load_file(tmp_path / "ours" / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if name.startswith("albert.")}
    ours.load_weights(weights | {f"classifier.{k}": v for k, v in theirs.classifier.state_dict().items()}, "here")
    tokenizer = wordpiece_tokenizer(TOKENS)
    pairs = [("w1 w2 yes", "w3"), ("no", None), ("w5 " * 40, "w6 " * 3), ("", None)]
    texts = encode_texts(tokenizer, pairs, 24, config)
    assert texts.lengths.tolist() == [7, 3, 24, 2]
    ids, types, mask = (torch.zeros(4, 24, dtype=torch.long) for _ in range(3))
    for i, (start, end) in enumerate(zip(texts.edges, texts.edges[1:], strict=False)):
        ids[i, : end - start] = torch.from_numpy(texts.input_ids[start:end])
        types[i, : end - start] = torch.from_numpy(texts.token_type_ids[start:end])
        mask[i, : end - start] = 1
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    torch.testing.assert_close(ours.logits(texts), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.logits(texts, batch_size=1), expected, atol=1e-5, rtol=0)
