"""Loads and stores of matrix tiles through pointers or TMA, shared by the feed-forward kernels."""

import triton
import triton.language as tl


@triton.jit
def load_tile(
    source, row, col, n_rows, N_COLS: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Load the tile of `source` [n_rows, N_COLS] at (row, col), zero past the last column (EVEN: tiles divide N_COLS).

    With pointers, rows past the end repeat the last row, which saves the mask; the caller never stores them.
    """
    if TMA:
        tile = source.load([row, col])
    else:
        rows = tl.minimum(row + tl.arange(0, ROWS), n_rows - 1).to(tl.int64)
        cols = col + tl.arange(0, COLS)
        pointers = source + rows[:, None] * N_COLS + cols[None, :]
        if EVEN:
            tile = tl.load(pointers)
        else:
            tile = tl.load(pointers, (cols < N_COLS)[None, :], other=0.0)
    return tile


@triton.jit
def store_tile(target, tile, row, col, n_rows, N_COLS: tl.constexpr, TMA: tl.constexpr):
    if TMA:
        target.store([row, col], tile)
    else:
        rows = row + tl.arange(0, tile.shape[0])
        cols = col + tl.arange(0, tile.shape[1])
        mask = (rows < n_rows)[:, None] & (cols < N_COLS)[None, :]
        tl.store(target + rows.to(tl.int64)[:, None] * N_COLS + cols[None, :], tile, mask)


@triton.jit
def tile_origin(n_rows, N_COLS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Row and column of this program's tile, in groups of 8 tile rows so that both operands are reused from L2."""
    program = tl.program_id(0)
    tiles_down = tl.cdiv(n_rows, ROWS)
    per_group = 8 * tl.cdiv(N_COLS, COLS)
    group = program // per_group
    down = tl.minimum(tiles_down - group * 8, 8)
    within = program % per_group
    return (group * 8 + within % down) * ROWS, within // down * COLS


@triton.jit
def split_columns(tile, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Split into four column blocks, which the epilogue processes in turn to save registers."""
    low, high = tile.reshape(ROWS, 2, COLS // 2).permute(0, 2, 1).split()
    part0, part1 = low.reshape(ROWS, 2, COLS // 4).permute(0, 2, 1).split()
    part2, part3 = high.reshape(ROWS, 2, COLS // 4).permute(0, 2, 1).split()
    return part0, part1, part2, part3
