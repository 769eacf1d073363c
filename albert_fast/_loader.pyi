"""C++ core of albert_fast (csrc/): checksums, shards and the pretraining loader."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

def crc32c(data: Buffer | NDArray[Any], crc: int = 0) -> int:
    """CRC32C (Castagnoli, RFC 3720) of a contiguous buffer, continuing from `crc` (0 at the start).

    Raises:
        ValueError: the buffer is not contiguous.
    """

def check_shard(path: str) -> None:
    """Read a shard and verify every byte of it.

    Raises:
        RuntimeError: the file is damaged or cannot be read; the message has the path and the offset.
    """

class LoaderConfig:
    """Settings of batching and masking (csrc/plan.h); probabilities are integers in millionths."""

    tokens_per_batch: int  # T
    max_seq_length: int  # S, special tokens included
    max_sequences: int  # M, most examples in a batch
    predictions_per_batch: int  # P
    max_predictions: int  # per example
    max_ngram: int
    masked_lm_millionths: int
    short_seq_millionths: int
    sentence_order: bool
    seed: int
    def __init__(self) -> None: ...
    def check(self) -> None:
        """Raise ValueError if a setting is out of range."""

    def sequence_slots(self) -> int:
        """N: the capacity of a batch for examples and padding sequences."""

    def budget(self, length: int) -> int:
        """Number of tokens to mask in an example of `length` tokens, special tokens included."""

class Corpus:
    """Shards with verified headers and tables, as one list of pages.

    Raises:
        RuntimeError: a shard is damaged, or shards disagree on the vocabulary.
        ValueError: there is no shard or no token.
    """

    def __init__(self, paths: Sequence[str]) -> None: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_sentences(self) -> int: ...
    @property
    def num_documents(self) -> int: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def fingerprint(self) -> int:
        """Identifies content and order of the shards: a hash of the checksums of headers and page tables."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def token_bytes(self) -> int:
        """Bytes per token in the shards: 2 or 4."""

    @property
    def cls_id(self) -> int: ...
    @property
    def sep_id(self) -> int: ...
    @property
    def mask_id(self) -> int: ...
    @property
    def unk_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def vocabulary_fingerprint(self) -> bytes:
        """Identifies the vocabulary of the tokenized text."""

_Integers: TypeAlias = NDArray[np.int32]
_Weights: TypeAlias = NDArray[np.float32]
_Batch: TypeAlias = tuple[
    _Integers, _Integers, _Integers, _Integers, _Integers, _Integers, _Weights, _Integers, _Weights,
    int, int, int, int, int,
]  # fmt: skip

class Loader:
    """The stream of micro-batches of one rank; `albert_fast.data.batches.PretrainingLoader` wraps it.

    next() may be called by one thread at a time; all other methods are thread-safe. In a forked child every call raises
    RuntimeError.

    Raises:
        ValueError: rank, world_size, threads or the position is out of range.
    """

    def __init__(
        self,
        *,
        corpus: Corpus,
        config: LoaderConfig,
        index: int,
        epoch: int,
        group: int,
        batch: int,
        rank: int,
        world_size: int,
        threads: int,
    ) -> None: ...
    def next(self) -> _Batch:
        """The next batch, as the fields of `albert_fast.data.batches.Batch` in order.

        Raises:
            RuntimeError: a page of the batch is damaged or missing, or the loader is closed.
        """

    def cursor(self) -> tuple[int, int, int, int]:
        """(index, epoch, group, batch): the position after the last round of micro-batches, equal on all ranks."""

    def statistics(self) -> dict[str, Any]:
        """Counts over the batches returned so far, named as in struct Statistics of csrc/loader.h."""

    def close(self) -> None:
        """Stop and join the threads; later calls of next() raise. Idempotent."""
