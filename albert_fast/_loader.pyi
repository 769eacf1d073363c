"""C++ core of albert_fast (csrc/): checksums, shards, and the pretraining loader."""

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
    """Open a shard and check every byte of it.

    Raises:
        RuntimeError: the file is damaged or cannot be read; the message names it and the place.
    """

class LoaderConfig:
    """Plan and masks of a stream, as csrc/plan.h has them; probabilities are integers, in millionths."""

    tokens_per_batch: int  # T
    max_seq_length: int  # S, specials included
    max_sequences: int  # M, most examples of a batch
    predictions_per_batch: int  # P
    max_predictions: int  # of one example
    max_ngram: int
    masked_lm_millionths: int
    short_seq_millionths: int
    sentence_order: bool
    seed: int
    def __init__(self) -> None: ...
    def check(self) -> None:
        """Raise ValueError, with value, rule and remedy, where a setting is out of its range."""

    def sequence_slots(self) -> int:
        """N: slots for the examples and the padding sequences of a batch."""

    def budget(self, length: int) -> int:
        """Tokens to mask in an example of `length` tokens, specials included."""

class Corpus:
    """Shards opened and their headers and tables checked, as one list of pages.

    Raises:
        RuntimeError: a shard is damaged, or two disagree on their vocabulary.
        ValueError: there is no shard, or no token in them.
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
        """Identifies content and order of the shards: a hash over the checksums of headers and tables."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def token_bytes(self) -> int:
        """Bytes of a token in the shards: 2 or 4."""

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
        """Identifies the vocabulary that the text was encoded with."""

_Integers: TypeAlias = NDArray[np.int32]
_Weights: TypeAlias = NDArray[np.float32]
_Batch: TypeAlias = tuple[
    _Integers, _Integers, _Integers, _Integers, _Integers, _Integers, _Weights, _Integers, _Weights,
    int, int, int, int, int,
]  # fmt: skip

class Loader:
    """The stream of micro-batches of one rank; `albert_fast.data.batches.PretrainingLoader` wraps it.

    One thread at a time may call next(); any thread may call the rest. In a forked child every call raises
    RuntimeError.

    Raises:
        ValueError: rank, world_size, threads or the cursor's place is out of its range.
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
        """The next batch: the fields of `albert_fast.data.batches.Batch`, in their order.

        Raises:
            RuntimeError: a page that the batch needs is damaged or gone, or the loader is closed.
        """

    def cursor(self) -> tuple[int, int, int, int]:
        """(index, epoch, group, batch) of the global micro-batch that follows this rank's last round."""

    def statistics(self) -> dict[str, Any]:
        """Counts over the batches handed out, by the names of struct Statistics in csrc/loader.h."""

    def close(self) -> None:
        """Stop and join the threads; later calls of next() raise. May be called again."""
