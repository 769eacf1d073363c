"""Python interface of the C++ loader (csrc/loader.h): an endless stream of packed numpy batches from shards."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from albert_fast import _loader
from albert_fast.data.capacities import (
    LoaderSettings,
    as_integer,
    as_user_error,
    earlier_max_sequences,
    loader_config,
    stream_fingerprint,
)
from albert_fast.data.manifest import open_folder
from albert_fast.options import UserError

if TYPE_CHECKING:
    from typing import Unpack  # new in Python 3.11

_BATCHES_BEFORE_REPORT = 100
_CURSOR_BITS = {"index": 63, "epoch": 63, "group": 32, "batch": 63}
Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch of fixed shapes: T tokens, at most M examples, N sequence slots, P prediction slots.

    Sequence i is `input_ids[cu_seqlens[i]:cu_seqlens[i + 1]]`. The first num_sequences sequences are examples: [CLS] A
    [SEP] B [SEP], or [CLS] A [SEP] without sentence order. Padding sequences of at most max_seq_length tokens ([PAD],
    type and position 0) fill the rest up to T, so `cu_seqlens[-1]` is always T; remaining slots are empty. The arrays
    share memory that lives as long as any of them; torch.from_numpy does not copy.
    """

    input_ids: np.ndarray  # [T] int32
    token_type_ids: np.ndarray  # [T] int32, 0 for [CLS] A [SEP], 1 for B [SEP]
    position_ids: np.ndarray  # [T] int32, from 0 in each example
    cu_seqlens: np.ndarray  # [N+1] int32, from 0 to T
    masked_lm_positions: np.ndarray  # [P] int32, indices into [T], ascending within a sequence; 0 in unused slots
    masked_lm_ids: np.ndarray  # [P] int32, original ids
    masked_lm_weights: np.ndarray  # [P] float32, 1, or 0 in unused slots
    sentence_order_labels: np.ndarray  # [M] int32, 1 if A and B are swapped
    sentence_order_weights: np.ndarray  # [M] float32, 1, or 0 in unused slots and without a second segment
    index: int  # of the global micro-batch
    epoch: int
    num_tokens: int  # tokens of the examples, including special tokens
    num_sequences: int  # number of examples
    num_predictions: int


class PretrainingLoader(Iterator[Batch]):
    """Endless stream of packed micro-batches of a prepared folder, with new masks every epoch.

    Micro-batches are numbered consecutively across epochs; rank r of W gets start + r, start + r + W, and so on.
    Micro-batch k is a pure function of (shards, settings, seed, k), independent of threads, rank and world size. Every
    token of the corpus is used exactly once per epoch, except one-token tails of documents (`statistics`). Unused
    tokens are mostly in the last batch of each group of 256 pages (about 16.8M tokens), half a batch on average; if T
    is at least 32 S and documents vary in length, other batches leave less than 0.2% unused. Examples are
    sentence-order pairs (Lan et al. 2019, section 3.1) split within a document, with whole-word n-gram masks, p(n) ~
    1/n: 80% [MASK], 10% unchanged, 10% a random ordinary token.

    Args:
        shards: a prepared folder, or shard files in order.
        tokens_per_batch: T, at least max_seq_length. If T exceeds the corpus, batches are partly empty.
        max_seq_length: S, the maximum tokens per sequence, including special tokens.
        seed: 0 to 2^64 - 1.
        rank, world_size: select the micro-batches of this process.
        threads: number of threads that build batches; it does not affect the bytes.
        start_batch: global micro-batch to start at. Finding it means planning every group before it (about 10 ms per
            million sentences and epoch).
        cursor: a result of `cursor()` to resume at, at the cost of planning one group; instead of start_batch.
        settings: masking, pairs and capacities, with the names and defaults of `capacities.loader_config`. The sequence
            slots N (attribute sequence_slots) leave room for padding sequences besides max_sequences.

    Raises:
        UserError: a setting is out of range, a file is missing or damaged, or the cursor belongs to another stream.
            Damage within a page is raised by the first batch that needs the page.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        tokens_per_batch: int,
        max_seq_length: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        start_batch: int = 0,
        cursor: Mapping[str, Any] | None = None,
        **settings: Unpack[LoaderSettings],
    ):
        with as_user_error():
            corpus = _loader.Corpus(_shard_paths(shards))
        config = loader_config(
            corpus, tokens_per_batch=tokens_per_batch, max_seq_length=max_seq_length, seed=seed, **settings
        )
        if isinstance(cursor, Mapping) and settings.get("max_sequences") is None:  # its stream's, whatever our default
            known = cursor.get("max_sequences", earlier_max_sequences(config, corpus))
            config.max_sequences = as_integer("cursor max_sequences", known, 32)
        self.corpus, self.config = corpus, config
        self.tokens_per_batch: int = config.tokens_per_batch
        self.max_seq_length: int = config.max_seq_length
        self.max_sequences: int = config.max_sequences
        self.sequence_slots: int = config.sequence_slots()
        self.predictions_per_batch: int = config.predictions_per_batch
        self._fingerprint = stream_fingerprint(config, corpus)
        self._count = 0
        start = as_integer("start_batch", start_batch, 63)
        index, epoch, group, batch = (start, 0, 0, start) if cursor is None else self._read_cursor(cursor)
        if cursor is not None and start not in (0, index):
            raise UserError(f"start_batch={start_batch} and a cursor at {index}; give one of them")
        _warn_of_waste(config, corpus)
        with as_user_error():
            self._core = _loader.Loader(
                corpus=corpus, config=config, index=index, epoch=epoch, group=group, batch=batch,
                rank=as_integer("rank", rank, 64), world_size=as_integer("world_size", world_size, 64),
                threads=as_integer("threads", threads, 32),
            )  # fmt: skip
        self._close = weakref.finalize(self, _close_in, os.getpid(), self._core)

    def __iter__(self) -> PretrainingLoader:
        return self

    def __next__(self) -> Batch:
        try:  # not as_user_error, which takes as long as making the arrays
            batch = Batch(*self._core.next())
        except (ValueError, RuntimeError) as error:
            raise UserError(str(error)) from None
        self._count += 1
        if self._count == _BATCHES_BEFORE_REPORT:
            _warn_of_capacities(self.statistics())
        return batch

    def cursor(self) -> dict[str, Any]:
        """Position of the next round of micro-batches, for a checkpoint: plain JSON, equal on all ranks."""
        place = dict(zip(_CURSOR_BITS, self._core.cursor(), strict=True))
        return {**place, "max_sequences": self.max_sequences, "stream": self._fingerprint}

    def statistics(self) -> dict[str, Any]:
        """Counts over the batches returned so far.

        Keys: batches, sequences, tokens and unused_tokens, predictions and unused_predictions (slots), dropped_tokens
        (one-token tails in finished groups), and closed_by: how many batches ended because tokens, sequences or
        predictions were full, or with their group of pages.
        """
        return self._core.statistics()

    def close(self) -> None:
        """Stop the threads. Batches already returned stay valid; closing twice is harmless."""
        self._close()

    def __enter__(self) -> PretrainingLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_cursor(self, cursor: Mapping[str, Any]) -> list[int]:
        try:
            stream, place = cursor["stream"], {name: cursor[name] for name in _CURSOR_BITS}
        except (KeyError, TypeError):
            raise UserError(f"cursor {cursor!r} lacks keys of PretrainingLoader.cursor(); pass its result") from None
        if stream != self._fingerprint:
            raise UserError(
                f"cursor of stream {stream!r}, this one is {self._fingerprint!r}: the shards, the seed or a "
                "setting of the batches changed; use those of the checkpoint, or start_batch"
            )
        return [as_integer(f"cursor {name}", place[name], bits) for name, bits in _CURSOR_BITS.items()]


def _close_in(process: int, core: Any) -> None:
    if os.getpid() == process:
        core.close()


def _shard_paths(shards: Shards) -> list[str]:
    if not isinstance(shards, (str, os.PathLike)):
        paths = [os.fspath(shard) for shard in shards]
        if not paths:
            raise UserError("shards=[] names no shard; give a prepared folder or its shard files")
        return paths
    return [str(path) for path in open_folder(os.fspath(shards)).shards]


def _warn_of_waste(config: Any, corpus: Any) -> None:
    tokens, length = config.tokens_per_batch, config.max_seq_length
    if tokens > corpus.num_tokens:
        warnings.warn(
            f"tokens_per_batch={tokens} exceeds the corpus of {corpus.num_tokens} tokens: every batch is partly empty",
            stacklevel=3,
        )
    elif tokens % length and corpus.num_tokens > 8 * length * max(corpus.num_documents, 1):
        warnings.warn(
            f"max_seq_length={length} does not divide tokens_per_batch={tokens}: with long documents, up to "
            f"{tokens % length} tokens of a batch stay unused; use {tokens - tokens % length}",
            stacklevel=3,
        )


def _warn_of_capacities(statistics: Mapping[str, Any]) -> None:
    """Warn if most batches are closed by a capacity other than tokens, and name the option to raise."""
    share = statistics["unused_tokens"] / statistics["tokens"]
    for capacity, name in (("sequences", "max_sequences"), ("predictions", "predictions_per_batch")):
        if statistics["closed_by"][capacity] > statistics["batches"] / 2 and share > 0.01:
            warnings.warn(
                f"{share:.1%} of the tokens stay unused because {capacity} are full; raise {name}", stacklevel=3
            )
