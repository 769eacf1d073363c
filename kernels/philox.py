"""Dropout multipliers from Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

A mask is a pure function of (seed, micro-batch, site, row, column), so backward recomputes it and nothing is saved.
The 64-bit seed is Philox's key, (column // 8, row, site, micro-batch) its counter, 32 bits each. One call gives 128
bits, 16 for each of 8 columns: column 8 g + 2 w + h takes the low (h = 0) or high (h = 1) half of word w and is dropped
if that half is below round(65536 p). `albert_fast.ops.dropout_keep` is the same rule in plain PyTorch.
"""

import triton
import triton.language as tl


@triton.jit
def dropout_multiplier(key_ptr, site, rows, threshold, scale, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """[BLOCK_ROWS, BLOCK_COLS]: 0 where dropped, `scale` where kept; `rows` [BLOCK_ROWS], columns from 0.

    A multiplier rather than a select: 0 * inf is NaN, as in PyTorch, so the mask cannot hide a broken activation.
    """
    N_GROUPS: tl.constexpr = BLOCK_COLS // 8
    seed = tl.load(key_ptr)
    micro_batch = tl.load(key_ptr + 1).to(tl.uint32)
    zero = tl.zeros((BLOCK_ROWS, N_GROUPS), tl.uint32)
    group = zero + tl.arange(0, N_GROUPS).to(tl.uint32)[None, :]
    row = zero + rows.to(tl.uint32)[:, None]
    w0, w1, w2, w3 = tl.philox(seed, group, row, zero + site.to(tl.uint32), zero + micro_batch)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [rows, groups, 2, 2]: read along the last axes, words 0 to 3
    halves = tl.reshape(tl.join(words & 0xFFFF, words >> 16), (BLOCK_ROWS, BLOCK_COLS))
    return tl.where(halves < threshold, 0.0, scale)


def dropout_arguments(probability: float) -> tuple[int, float]:
    """Kernel arguments for dropout: threshold out of 65536 below which an element is dropped, and scale of the rest."""
    return round(probability * 65536), 1.0 / (1.0 - probability)
