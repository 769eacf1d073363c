"""The fine-tuning loop: examples -> packed batches -> optimizer steps -> the checkpoint that is best on --dev."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from albert_fast._loader import crc32c
from albert_fast.config import TrainConfig
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.downstream.baseline import word_count_accuracy
from albert_fast.downstream.columns import ColumnOptions, Expected
from albert_fast.downstream.evaluate import class_indices, labelled_scores, write_predictions
from albert_fast.downstream.examples import read_examples
from albert_fast.downstream.finetune_options import FinetuneOptions
from albert_fast.downstream.finetune_run import FinetuneRun, check_output
from albert_fast.downstream.starting import starting_model, with_defaults
from albert_fast.downstream.texts import EncodedTexts, encode_texts
from albert_fast.files import file_crc
from albert_fast.optimizer import FlatParameters, Optimizer
from albert_fast.options import DeviceOptions, UserError, note
from albert_fast.packed import Packed
from albert_fast.pretrained import WEIGHTS, checkpoint_folder
from albert_fast.stop import Stop


def finetune(options: FinetuneOptions, columns: ColumnOptions, where: DeviceOptions) -> None:
    """Train a classifier of sentences or sentence pairs and keep the checkpoint that is best on --dev."""
    device, dtype = where.resolve()
    check_output(Path(options.output), options.resume)  # fail here rather than after reading the examples
    examples = read_examples(options.train, columns, Expected(labelled=True))
    train, names = examples.labelled, examples.class_names()
    found = examples.columns
    as_in_train = Expected(classes=names, pairs=found.text_b is not None, columns=found, labelled=True)
    dev_examples = read_examples(options.dev, columns, as_in_train)
    if not (dev := dev_examples.labelled):
        raise UserError(f"dev={options.dev}: no row has a label, so no checkpoint can be selected; give labelled rows")
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
    train_config = TrainConfig(
        optimizer="adamw", max_steps=max_steps, learning_rate=options.learning_rate or 0.0,
        warmup_steps=int(options.warmup_ratio * max_steps), weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm, seed=options.seed,
    )  # fmt: skip
    optimizer = Optimizer(flat, train_config, model.ops)
    precision = str(dtype).removeprefix("torch.")
    settings = asdict(options) | asdict(columns) | {"device": device.type, "precision": precision, "ops": where.ops}
    settings["columns"] = asdict(found)
    settings["data_crc32c"] = _checksum((train_texts, train_labels.cpu().numpy()), (dev_texts, dev_labels))
    settings["model_crc32c"] = file_crc(checkpoint_folder(options.model) / WEIGHTS)
    more = {"baseline_accuracy": word_count_accuracy(train, dev)} if options.baseline else {}
    run = FinetuneRun(Path(options.output), model, optimizer, settings, options.metric, options.patience)
    with run.started(max_steps, resume=options.resume), Stop(world_size=1) as stop:
        length = train_texts.cu_seqlens[-1] / len(train)
        note(f"{len(train):,} examples, {len(names)} classes, {length:.0f} tokens each; {device.type}, {precision}")
        while run.step < max_steps and not run.stopped and not stop.agreed:
            epoch, done = divmod(run.step, steps_per_epoch)
            for batch, labels in _epoch(train_texts, train_labels, options, epoch, done):
                loss = F.cross_entropy(model(batch).float(), labels)
                loss.backward()
                optimizer.update(1)
                run.advance(loss.detach(), batch.input_ids.shape[0], options.logging_steps)
                # After an epoch's last step, save only once it is evaluated: a run resumed in between would skip that.
                if run.step % options.save_steps == 0 and run.step % steps_per_epoch:
                    run.save()
                if stop.agreed:
                    break
            if run.step % steps_per_epoch == 0:
                with run.log.paused():
                    logits = model.logits(dev_texts)
                if run.evaluated(epoch + 1, labelled_scores(logits, dev_labels)):
                    write_predictions(run.output / "dev_predictions.jsonl", dev, logits, names)
            run.save()
        if run.step == max_steps or run.stopped:
            run.finish()
    run.report(options.json, more, stop.received)


def _epoch(
    texts: EncodedTexts, labels: Tensor, options: FinetuneOptions, epoch: int, done: int
) -> Iterator[tuple[Packed, Tensor]]:
    """The shuffled batches of an epoch and their labels, skipping the first `done` batches."""
    order = np.random.default_rng([options.seed, epoch]).permutation(len(texts))
    steps_per_epoch = -(-len(texts) // options.batch_size)
    for step in range(done, steps_per_epoch):
        rows = order[step * options.batch_size : (step + 1) * options.batch_size]
        key = torch.tensor([options.seed, epoch * steps_per_epoch + step], device=labels.device)
        yield texts.batch(rows, labels.device, key), labels[torch.from_numpy(rows).to(labels.device)]


def _checksum(*examples: tuple[EncodedTexts, np.ndarray]) -> int:
    crc = 0
    for texts, labels in examples:
        for array in (texts.input_ids, texts.token_type_ids, texts.cu_seqlens, labels):
            crc = crc32c(array, crc)
    return crc
