"""Fine-tuning on labelled sentences or pairs: examples -> packed batches -> step -> the checkpoint best on --dev."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from albert_fast._loader import crc32c
from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.data.tokenizer import load_tokenizer
from albert_fast.downstream.baseline import word_count_accuracy
from albert_fast.downstream.classifier import SETTINGS, AlbertForSequenceClassification, EncodedTexts, encode_texts
from albert_fast.downstream.columns import ColumnOptions, Expected
from albert_fast.downstream.defaults import choose_defaults, fill_in, first_token_spread, tokens_seen
from albert_fast.downstream.evaluate import class_indices, labelled_scores, write_predictions
from albert_fast.downstream.examples import read_examples
from albert_fast.downstream.finetune_run import FinetuneRun
from albert_fast.files import file_crc
from albert_fast.optimizer import FlatParameters, Optimizer
from albert_fast.options import DeviceOptions, Options, note, option
from albert_fast.pretrained import WEIGHTS, checkpoint_folder, read_weights


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    """What to fine-tune on what, and for how long."""

    model: str = option(help="folder of a pretrained or fine-tuned model with its vocabulary", metavar="DIR")
    train: str = option(help="TSV, CSV, JSONL or JSON file of labelled sentences or pairs to train on", metavar="FILE")
    dev: str = option(help="the same, to choose the best checkpoint on", metavar="FILE")
    output: str = option(help="folder of the best checkpoint, metrics.jsonl and predictions on --dev", metavar="DIR")
    resume: bool = option(False, "go on with a run that was stopped, with the same flags")
    epochs: int | None = option(None, "passes over --train (3)", at_least=1)
    batch_size: int = option(32, "sentences or pairs in a step; packed, so short ones cost little", at_least=1)
    max_seq_length: int = option(
        128, "tokens of the longest sequence, [CLS] and [SEP] included; longer ones are cut", at_least=1
    )
    learning_rate: float | None = option(
        None,
        "peak learning rate (by width and pretraining: 3e-5 for a published base, more for smaller ones and for "
        "those that saw little text)",
        above=0,
    )
    warmup_ratio: float = option(
        0.1, "share of all steps in which the rate rises; then it falls to 0", at_least=0, below=1
    )
    weight_decay: float = option(0.01, "decoupled weight decay; biases and LayerNorms are exempt")
    max_grad_norm: float = option(1.0, "global gradient norm to clip at; 0 turns clipping off")
    hidden_dropout_prob: float | None = option(None, "probability of dropping a hidden unit (the config's)")
    classifier_dropout_prob: float = option(
        0.1, "probability of dropping a unit of the pooled vector", at_least=0, below=1
    )
    pooling: Literal["first", "mean"] | None = option(
        None, "what is classified: the first token's vector, or the mean of all (mean after little pretraining)"
    )
    metric: Literal["accuracy", "f1", "matthews"] = option("accuracy", "score on --dev by which a checkpoint is better")
    patience: int = option(0, "epochs without a better score after which to stop; 0: never", at_least=0)
    save_steps: int = option(
        1000, "steps between states that --resume can go on from; every epoch leaves one too", at_least=1
    )
    logging_steps: int = option(10, "steps between log lines", at_least=1)
    seed: int = option(
        42, "seed of the classifier's weights, the order of examples and dropout", at_least=0, at_most=2**63 - 1
    )
    baseline: bool = option(False, "say what word counts alone reach on --dev (scikit-learn)")
    json: bool = option(False, "print the best scores as one JSON document")


def finetune(options: FinetuneOptions, columns: ColumnOptions, where: DeviceOptions) -> None:
    """Train a classifier of sentences or sentence pairs, and keep the checkpoint that is best on --dev."""
    device, dtype = where.resolve()
    examples = read_examples(options.train, columns, Expected(labelled=True))
    train, names = examples.labelled, examples.class_names()
    like_train = Expected(classes=names, pairs=examples.pairs, columns=examples.columns, labelled=True)
    dev_examples = read_examples(options.dev, columns, like_train)
    dev = dev_examples.labelled
    train_labels = torch.from_numpy(class_indices(train, names)).to(device)
    dev_labels = class_indices(dev, names)
    examples.describe()
    dev_examples.describe()

    torch.manual_seed(options.seed)
    model = starting_model(options, names, where.ops).to(device)
    tokenizer = model.tokenizer = load_tokenizer(checkpoint_folder(options.model))
    train_texts, dev_texts = (
        encode_texts(tokenizer, [(e.text_a, e.text_b) for e in examples], options.max_seq_length, model.config)
        for examples in (train, dev)
    )
    options = with_defaults(options, model, train_texts)
    steps_per_epoch = -(-len(train) // options.batch_size)
    max_steps = (options.epochs or 0) * steps_per_epoch
    flat = FlatParameters(model, dtype)
    optimizer = Optimizer(flat, _train_config(options, max_steps))
    precision = str(dtype).removeprefix("torch.")
    settings = asdict(options) | asdict(columns) | {"device": device.type, "precision": precision, "ops": where.ops}
    settings["columns"] = asdict(examples.columns)
    settings["data_crc32c"] = _checksum((train_texts, train_labels.cpu().numpy()), (dev_texts, dev_labels))
    settings["model_crc32c"] = file_crc(checkpoint_folder(options.model) / WEIGHTS)
    more = {"baseline_accuracy": word_count_accuracy(train, dev)} if options.baseline else {}
    run = FinetuneRun(Path(options.output), model, optimizer, settings, options.metric, options.patience)
    with run.started(max_steps, resume=options.resume):
        length = train_texts.edges[-1] / len(train)
        note(f"{len(train):,} examples of {len(names)} classes, {length:.0f} tokens each; {device.type}, {precision}")
        while run.step < max_steps and not run.stopped:
            epoch, place = divmod(run.step, steps_per_epoch)
            start = place * options.batch_size
            rows = _order(options.seed, epoch, len(train))[start : start + options.batch_size]
            key = torch.tensor([options.seed, run.step], device=device)
            batch = train_texts.batch(rows, device, key)
            loss = F.cross_entropy(model(batch).float(), train_labels[torch.from_numpy(rows).to(device)])
            loss.backward()
            optimizer.update(1)
            run.advance(loss.detach(), batch.input_ids.shape[0], options.logging_steps)
            if run.step % steps_per_epoch == 0:
                logits = model.logits(dev_texts)
                if run.evaluated(epoch + 1, labelled_scores(logits, dev_labels)):
                    write_predictions(run.output / "dev_predictions.jsonl", dev, logits, names)
            if run.step % steps_per_epoch == 0 or run.step % options.save_steps == 0:
                run.save()
    run.report(options.json, more)


def with_defaults(
    options: FinetuneOptions, model: AlbertForSequenceClassification, texts: EncodedTexts
) -> FinetuneOptions:
    """The options with learning_rate, pooling and epochs filled in where they are not given; `model` pools so too."""
    folder = checkpoint_folder(options.model)
    own = model.config.extra.get("classifier_pooling") if (folder / SETTINGS).is_file() else None
    given = {
        "learning_rate": options.learning_rate,
        "pooling": options.pooling or own,  # a classifier goes on pooling as it does
        "epochs": options.epochs,
    }
    spread = first_token_spread(model, texts)
    given = fill_in(given, choose_defaults(model.config.hidden_size, spread, tokens_seen(folder)))
    model.pooling = model.config.extra["classifier_pooling"] = given["pooling"]
    return replace(options, **given)


def starting_model(options: FinetuneOptions, names: list[str], ops: str) -> AlbertForSequenceClassification:
    """The backbone of options.model under a classifier of `names`: its own where it has the same, else a new one."""
    folder = checkpoint_folder(options.model)
    weights, config = read_weights(folder), AlbertConfig.from_pretrained(folder)
    if config.attention_probs_dropout_prob > 0:
        note(
            f"the config's attention_probs_dropout_prob={config.attention_probs_dropout_prob} is set to 0: packed "
            "attention has no dropout; --hidden_dropout_prob has its place"
        )
    id2label = {str(i): name for i, name in enumerate(names)}
    keep_classifier = "classifier.weight" in weights and config.extra.get("id2label") == id2label
    dropout = config.hidden_dropout_prob if options.hidden_dropout_prob is None else options.hidden_dropout_prob
    config = config.replace(
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=dropout,
        extra={
            **config.extra,
            "architectures": ["AlbertForSequenceClassification"],
            "classifier_pooling": options.pooling or config.extra.get("classifier_pooling"),
            "classifier_dropout_prob": options.classifier_dropout_prob,
            "id2label": id2label,
            "label2id": {name: i for i, name in enumerate(names)},
        },
    )
    model = AlbertForSequenceClassification(config, ops)
    kept: tuple[str, ...] = ("albert.", "classifier.") if keep_classifier else ("albert.",)
    weights = {name: tensor for name, tensor in weights.items() if name.startswith(kept)}
    fresh: dict[str, Tensor] = (
        {}
        if keep_classifier
        else {name: tensor for name, tensor in model.state_dict().items() if name.startswith("classifier.")}
    )
    model.load_weights(weights | fresh, str(folder))
    return model


@lru_cache(1)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The rows in the order in which an epoch takes them."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _train_config(options: FinetuneOptions, max_steps: int) -> TrainConfig:
    return TrainConfig(
        optimizer="adamw",
        max_steps=max_steps,
        learning_rate=options.learning_rate or 0.0,
        warmup_steps=int(options.warmup_ratio * max_steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
    )


def _checksum(*examples: tuple[EncodedTexts, np.ndarray]) -> int:
    crc = 0
    for texts, labels in examples:
        for array in (texts.input_ids, texts.token_type_ids, texts.edges, labels):
            crc = crc32c(array, crc)
    return crc
