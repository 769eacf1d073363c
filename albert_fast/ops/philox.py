"""Dropout whose mask is a pure function of (seed, micro-batch, site, row, column)."""

import math
from typing import Literal

import torch
from torch import Tensor

from albert_fast.options import UserError

ROWS_AT_A_TIME = 1024  # bounds the int64 temporaries, which would take 27 GB for 65,536 tokens


def _philox(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") on int64 holding 32 bits."""
    low = 0xFFFFFFFF

    def multiply(x: Tensor, constant: int) -> tuple[Tensor, Tensor]:
        # The 64-bit product would overflow int64, so multiply by each half of the constant.
        upper, lower = (constant >> 16) * x, (constant & 0xFFFF) * x
        carried = upper + (lower >> 16)
        return carried >> 16, ((carried << 16) | (lower & 0xFFFF)) & low

    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = multiply(c0, 0xD2511F53)
        high1, low1 = multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return [c0, c1, c2, c3]


def dropout_keep(key: Tensor, site: int, rows: int, columns: int, probability: float) -> Tensor:
    """Mask of kept elements, bool [rows, columns]: a pure function of (seed, micro-batch, site, row, column).

    `key` is int64 [2] on the device: the seed and the index of the global micro-batch. One Philox call yields 16 bits
    for each of eight columns, so the probability is rounded to a multiple of 1/65536.
    """
    low, columns_per_call = 0xFFFFFFFF, 8
    column = torch.arange(math.ceil(columns / columns_per_call), device=key.device)[None, :]
    seed, micro_batch = key[0], key[1]
    parts = []
    for start in range(0, rows, ROWS_AT_A_TIME):
        row = torch.arange(start, min(start + ROWS_AT_A_TIME, rows), device=key.device)[:, None]
        counter = [
            column.expand(len(row), -1), row.expand(-1, column.shape[1]), torch.full_like(row, site), micro_batch & low
        ]  # fmt: skip
        words = torch.stack(_philox(counter, [seed & low, (seed >> 32) & low]), dim=-1)
        halves = torch.stack((words & 0xFFFF, words >> 16), dim=-1).reshape(len(row), -1)[:, :columns]
        parts.append(halves >= round(probability * 65536))
    return torch.cat(parts) if parts else torch.empty(0, columns, dtype=torch.bool, device=key.device)


def dropout_site(place: Literal["embeddings", "attention", "feed_forward", "classifier"], depth: int = 0) -> int:
    """Unique number of a dropout in the model, so that no two share a mask.

    depth: index of the layer for attention and feed_forward; number of layers for the classifier.
    """
    first = {"embeddings": 0, "attention": 1, "feed_forward": 2, "classifier": 1}
    return first[place] + 2 * depth


def dropout(x: Tensor, probability: float, key: Tensor | None, site: int) -> Tensor:
    """x [..., H] with elements zeroed by `dropout_keep` and the others scaled by 1 / (1 - probability).

    The leading dimensions are flattened to the T rows of the mask.
    """
    if probability == 0.0:
        return x
    if key is None:
        raise UserError(f"dropout={probability} needs a key: an int64 tensor [seed, micro-batch] on the device")
    keep = dropout_keep(key, site, math.prod(x.shape[:-1]), x.shape[-1], probability).view(x.shape)
    # A product rather than torch.where, as in PyTorch: 0 * inf is NaN, so the mask cannot hide a broken activation.
    return x * (keep.to(x.dtype) / (1.0 - probability))
