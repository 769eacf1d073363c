"""Encodes texts into packed batches without padding, and averages token vectors over each text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.options import UserError
from albert_fast.packed import Packed


@dataclass(frozen=True)
class EncodedTexts:
    """Concatenated texts: input_ids and token_type_ids, int32 [tokens], and cu_seqlens, int64 [texts + 1]."""

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    cu_seqlens: np.ndarray

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.cu_seqlens)

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]:
        """Row indices 0, 1, 2, ... in consecutive batches of batch_size."""
        for start in range(0, len(self), batch_size):
            yield np.arange(start, min(start + batch_size, len(self)))

    def batch(self, rows: np.ndarray, device: torch.device, dropout_key: Tensor | None = None) -> Packed:
        """The texts with indices `rows`, packed without padding."""
        lengths = self.lengths[rows]
        cu_seqlens = np.concatenate(([0], np.cumsum(lengths)))
        positions = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
        tokens = np.repeat(self.cu_seqlens[rows], lengths) + positions
        arrays = (self.input_ids[tokens], self.token_type_ids[tokens], positions, cu_seqlens)
        ids, types, places, ends = (torch.from_numpy(a.astype(np.int32)).to(device, non_blocking=True) for a in arrays)
        return Packed(ids, types, places, ends, int(lengths.max()), dropout_key)


def encode_texts(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str | None]], max_seq_length: int, config: AlbertConfig
) -> EncodedTexts:
    """Encode each pair as [CLS] A [SEP] or [CLS] A [SEP] B [SEP], truncating the longer text until it fits."""
    config.check_length(max_seq_length)
    if config.type_vocab_size < 2 and any(b is not None for _, b in pairs):
        raise UserError(f"type_vocab_size={config.type_vocab_size} has no second segment for pairs; use a model with 2")
    texts = [text for pair in pairs for text in pair if text is not None]
    flat, _, lengths, _ = tokenizer.encode_lines(texts)
    pieces = iter(np.split(flat, np.cumsum(lengths)[:-1]))
    ids: list[int] = []
    types: list[int] = []
    cu_seqlens = [0]
    for _, b in pairs:
        first = next(pieces).tolist()
        own = tokenizer.join(first, None if b is None else next(pieces).tolist(), max_seq_length)
        ids += own[0]
        types += own[1]
        cu_seqlens.append(len(ids))
    return EncodedTexts(np.array(ids, np.int32), np.array(types, np.int32), np.array(cu_seqlens, np.int64))


def mean_vectors(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Means [B, H] of hidden [T, H] over packed sequences, [CLS] and [SEP] included; they must cover all T tokens."""
    lengths = cu_seqlens.diff().long()
    return torch.segment_reduce(hidden.float(), "mean", lengths=lengths, unsafe=True).to(hidden.dtype)
