"""The pretraining stream for other trainers: packed tensors, or single examples with a padding collator.

For HuggingFace's model and Trainer (`pip install 'albert-fast[trainer]'`) or any loop over a torch DataLoader, on a
folder made by `albert-fast prepare`:

    from transformers import AlbertConfig, AlbertForPreTraining, Trainer, TrainingArguments
    from albert_fast.data.adapters import ExampleDataset, PaddingCollator

    dataset = ExampleDataset("corpus/", max_seq_length=128, seed=1)
    config = AlbertConfig(vocab_size=dataset.vocab_size, embedding_size=128, hidden_size=312, num_hidden_layers=4,
        num_attention_heads=12, intermediate_size=1248)
    arguments = TrainingArguments("run", max_steps=1000, per_device_train_batch_size=64, remove_unused_columns=False)
    collator = PaddingCollator(dataset.pad_token_id)
    Trainer(AlbertForPreTraining(config), arguments, train_dataset=dataset, data_collator=collator).train()
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from albert_fast.data.batches import Batch, PretrainingLoader, Shards
from albert_fast.options import UserError

IGNORED = -100  # label that torch's cross entropy ignores


class PackedDataset(IterableDataset):
    """Endless micro-batches as dicts of tensors, one for each array of `albert_fast.data.batches.Batch`, zero-copy.

    Pass it to a DataLoader with batch_size=None. Settings are those of PretrainingLoader. DataLoader workers divide
    this rank's micro-batches among them, so that any number of workers gives the same stream in the same order. (The
    loader
    has its own threads: num_workers=0 is as fast.)
    """

    def __init__(self, shards: Shards, **settings: Any):
        self.shards, self.settings = shards, settings
        with PretrainingLoader(shards, **settings) as loader:  # rejects bad settings here rather than in a worker
            self.vocab_size: int = loader.corpus.vocab_size
            self.pad_token_id: int = loader.corpus.pad_id

    def batches(self) -> Iterator[Batch]:
        settings, worker = dict(self.settings), get_worker_info()
        if worker is not None:
            if settings.get("cursor") is not None and worker.num_workers > 1:
                raise UserError("cursor does not go with num_workers > 1; use num_workers=0 or start_batch")
            # A DataLoader polls its workers in turn, so worker w acts as rank + w * world_size among more ranks.
            settings["rank"] = settings.get("rank", 0) + worker.id * settings.get("world_size", 1)
            settings["world_size"] = settings.get("world_size", 1) * worker.num_workers
        with PretrainingLoader(self.shards, **settings) as loader:
            yield from loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches():
            arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
            yield {name: torch.from_numpy(a) for name, a in arrays.items() if isinstance(a, np.ndarray)}


class ExampleDataset(PackedDataset):
    """Single examples with HuggingFace's names, for `PaddingCollator`.

    Each has numpy input_ids, token_type_ids and labels [L] int64 (IGNORED where nothing is masked) and, with sentence
    order, an int sentence_order_label (1 = swapped). tokens_per_batch only determines how many examples are made at a
    time; the default is 64 full ones.
    """

    def __init__(self, shards: Shards, *, max_seq_length: int, tokens_per_batch: int | None = None, **settings: Any):
        settings |= {"max_seq_length": max_seq_length, "tokens_per_batch": tokens_per_batch or 64 * max_seq_length}
        super().__init__(shards, **settings)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        has_order = self.settings.get("sentence_order", True)
        for batch in self.batches():
            yield from examples_of(batch, has_order)


def examples_of(batch: Batch, has_order: bool = True) -> Iterator[dict[str, Any]]:
    """The examples of a packed batch, in the form of ExampleDataset."""
    used = slice(batch.num_predictions)
    labels = np.full(len(batch.input_ids), IGNORED, np.int64)
    labels[batch.masked_lm_positions[used]] = batch.masked_lm_ids[used]
    orders = np.where(batch.sentence_order_weights > 0, batch.sentence_order_labels, IGNORED)
    for i in range(batch.num_sequences):
        part = slice(batch.cu_seqlens[i], batch.cu_seqlens[i + 1])
        example = {
            "input_ids": batch.input_ids[part].astype(np.int64),
            "token_type_ids": batch.token_type_ids[part].astype(np.int64),
            "labels": labels[part],
        }
        yield example | ({"sentence_order_label": int(orders[i])} if has_order else {})


class PaddingCollator:
    """Pads examples to the longest one, as inputs of HuggingFace's AlbertForPreTraining.

    Returns int64 tensors input_ids, attention_mask, token_type_ids and labels [B, S] and, if the examples have it,
    sentence_order_label [B].

    Args:
        pad_token_id: `dataset.pad_token_id`.
        pad_to_multiple_of: round S up, so that fewer shapes occur.
    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int = 8):
        self.padding = {"input_ids": pad_token_id, "token_type_ids": 0, "labels": IGNORED, "attention_mask": 0}
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [example | {"attention_mask": np.ones(len(example["input_ids"]), np.int64)} for example in examples]
        longest = max(len(row["input_ids"]) for row in rows)
        length = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        out = {name: torch.full((len(rows), length), value) for name, value in self.padding.items()}
        for name, padded in out.items():
            for target, row in zip(padded, rows, strict=True):
                target[: len(row[name])] = torch.from_numpy(row[name])
        if "sentence_order_label" in rows[0]:
            out["sentence_order_label"] = torch.tensor([row["sentence_order_label"] for row in rows])
        return out
