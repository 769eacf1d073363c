"""Evaluates a fine-tuned classifier on labelled texts and writes its predictions with their probabilities."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.downstream.columns import ColumnOptions, Expected
from albert_fast.downstream.examples import Example, read_examples
from albert_fast.downstream.labels import class_places
from albert_fast.downstream.scores import classification_scores, warn_of_chance
from albert_fast.downstream.texts import encode_texts
from albert_fast.files import strict_json, whole_file
from albert_fast.options import DeviceOptions, Options, UserError, note, option


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Model and test data."""

    model: str = option(help="folder written by `albert-fast finetune`", metavar="DIR")
    test: str = option(help="TSV, CSV, JSONL or JSON file of sentences or pairs; scores need labels", metavar="FILE")
    predictions: str | None = option(None, "JSONL file to write: class and probabilities of every row", metavar="FILE")
    batch_size: int = option(64, "sentences or pairs per forward pass", at_least=1)
    max_seq_length: int | None = option(None, "truncate sequences to this many tokens (as in fine-tuning)", at_least=3)
    json: bool = option(False, "print the scores as a JSON document")


def evaluate(options: EvaluateOptions, columns: ColumnOptions, where: DeviceOptions) -> None:
    """Compute accuracy, F1 and Matthews correlation of a fine-tuned classifier; --predictions writes its output."""
    device, dtype = where.resolve()
    model = AlbertForSequenceClassification.from_pretrained(options.model, ops=where.ops).to(device, dtype)
    assert model.tokenizer is not None
    expected = Expected(classes=list(class_places(model.class_names)), pairs=model.reads_pairs, columns=model.columns)
    examples = read_examples(options.test, columns, expected)
    examples.describe()
    labelled = [i for i, example in enumerate(examples.rows) if example.label is not None]
    labels = class_indices(examples.labelled, model.class_names)
    pairs = [(example.text_a, example.text_b) for example in examples.rows]
    length = options.max_seq_length or model.max_seq_length
    logits = model.logits(encode_texts(model.tokenizer, pairs, length, model.config), options.batch_size)
    if options.predictions is not None:
        write_predictions(Path(options.predictions), examples.rows, logits, model.class_names)
    scores: dict[str, float] = {"examples": len(examples.rows)}
    if not labelled:
        note(f"{options.test} has no labels, so no scores are computed")
    else:
        if len(labelled) < len(examples.rows):
            scores["labelled"] = len(labelled)
        scores |= labelled_scores(logits[labelled], labels)
        warn_of_chance(scores, options.test)
    if options.json:
        print(strict_json(scores))
        return
    console = Console()
    console.print(f"{options.model} on {options.test}", markup=False, highlight=False, soft_wrap=True)
    table = Table(*scores)
    table.add_row(*(f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for value in scores.values()))
    console.print(table)


def class_indices(examples: list[Example], names: list[str]) -> np.ndarray:
    """int64 [examples]: the index of each label in `names`."""
    index = class_places(names)
    for example in examples:
        if example.label not in index:
            raise UserError(f"{example.place}: label {example.label!r} is not a class; use one of {', '.join(names)}")
    return np.array([index[str(example.label)] for example in examples])


def labelled_scores(logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    """Mean cross entropy (nats) as `loss`, and `classification_scores`, of logits [examples, classes]."""
    loss = F.cross_entropy(logits, torch.from_numpy(labels)).item()
    return {"loss": loss, **classification_scores(labels, logits.argmax(-1).numpy(), logits.shape[1])}


def write_predictions(file: Path, examples: list[Example], logits: Tensor, names: list[str]) -> None:
    """Write one JSON object per row: texts, label if any, predicted class and the probability of each class."""
    with whole_file(file) as partial, partial.open("w", encoding="utf-8") as stream:
        for example, row in zip(examples, logits.softmax(-1).tolist(), strict=True):
            pair = {} if example.text_b is None else {"text_b": example.text_b}
            label = {} if example.label is None else {"label": example.label}
            probabilities = dict(zip(names, (round(p, 6) for p in row), strict=True))
            best = names[int(np.argmax(row))]
            line = {"text_a": example.text_a, **pair, **label, "prediction": best, "probabilities": probabilities}
            stream.write(strict_json(line, ensure_ascii=False) + "\n")
