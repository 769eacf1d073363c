"""Packed model input: the tokens of several sequences concatenated; and packing of padded input.

Dimension letters: T tokens (packed), B sequences, P masked positions, S columns of padded input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from albert_fast.options import UserError

if TYPE_CHECKING:
    from albert_fast.data.batches import Batch

Dropout = tuple[float, Tensor | None, int]  # probability, key int64 [2], site


@dataclass
class Packed:
    """Concatenated tokens of several sequences; every token belongs to a sequence.

    input_ids, token_type_ids, position_ids: int [T]; cu_seqlens: int32 [B+1], from 0 to T, where a repeated value is an
    empty sequence; max_seqlen: upper bound on the sequence lengths; dropout_key: int64 [2], the seed and the index of
    the global micro-batch, in training only.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    dropout_key: Tensor | None = None

    def dropout(self, probability: float, site: int) -> Dropout:
        """Dropout arguments of an op; without a key (in evaluation) the probability is 0."""
        return (0.0 if self.dropout_key is None else probability), self.dropout_key, site

    def first_tokens(self) -> Tensor:
        """int32 [B]: index of the first token of each sequence; T for empty sequences."""
        starts, ends = self.cu_seqlens[:-1], self.cu_seqlens[1:]
        return torch.where(starts < ends, starts, len(self.input_ids))


@dataclass(kw_only=True)
class PretrainingBatch(Packed):
    """A packed micro-batch with the targets of the pretraining heads.

    masked_lm_positions: int [P], indices into T; masked_lm_ids: int [P], the original tokens; masked_lm_weights: float
    [P], 0 for unused entries; sentence_order_labels: int [M], for the first M sequences, 1 if the segments are swapped;
    sentence_order_weights: float [M].
    """

    masked_lm_positions: Tensor
    masked_lm_ids: Tensor
    masked_lm_weights: Tensor
    sentence_order_labels: Tensor
    sentence_order_weights: Tensor

    @classmethod
    def from_loader(cls, batch: Batch, device: torch.device, dropout_seed: int | None = None) -> PretrainingBatch:
        """Copy the loader's `batch` to `device`; a seed (0 to 2^63 - 1) turns dropout on."""
        names = [field.name for field in fields(cls) if field.name not in ("max_seqlen", "dropout_key")]
        tensors = {name: torch.from_numpy(getattr(batch, name)).to(device) for name in names}
        key = None if dropout_seed is None else torch.tensor([dropout_seed, batch.index], device=device)
        longest = int((batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).max())
        return cls(**tensors, max_seqlen=longest, dropout_key=key)

    def head_positions(self) -> Tensor:
        """int32 [M + P]: indices of the tokens that the pretraining heads read; T for unused entries.

        These are the first tokens of the first M sequences (padding sequences come last) and the masked tokens.
        """
        masked = torch.where(self.masked_lm_weights > 0, self.masked_lm_positions, len(self.input_ids))
        return torch.cat((self.first_tokens()[: len(self.sentence_order_labels)], masked))


def pack(
    input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
) -> tuple[Packed, Callable[[Tensor], Tensor]]:
    """Pack padded input [B, S]; returns it with a function that unpacks [T, ...] to [B, S, ...], zero at padding."""
    if input_ids.dim() != 2:
        raise UserError(f"input_ids {list(input_ids.shape)} must be [sequences, length]; unsqueeze a single sequence")
    keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if keep.shape != input_ids.shape:
        raise UserError(f"attention_mask {list(keep.shape)} must have input_ids' shape {list(input_ids.shape)}")
    rows, columns = (keep > 0).nonzero(as_tuple=True)
    types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    cu_seqlens = nn.functional.pad((keep > 0).sum(1).cumsum(0), (1, 0)).int()
    packed = Packed(input_ids[rows, columns], types[rows, columns], columns, cu_seqlens, input_ids.shape[1])

    def unpack(x: Tensor) -> Tensor:
        return x.new_zeros(*input_ids.shape, *x.shape[1:]).index_put((rows, columns), x)

    return packed, unpack
