"""Tiles of the kernels that process whole rows (LayerNorm etc.), and the chunking of rows for partial sums."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv
from .candidates import Candidate, Problem, candidates, chosen, problem_of


@triton.jit
def row_tile(first, last, cols, N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """BLOCK_ROWS rows from `first` with their mask (before `last`), and the offsets of their elements with a mask."""
    rows = first + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < last
    mask = row_mask[:, None] & (cols < N_COLS)[None, :]
    return rows, row_mask, rows.to(tl.int64)[:, None] * N_COLS + cols[None, :], mask


def _options(n_cols: int, columns_per_thread: int, rows: int) -> dict[str, int]:
    """A tile of `rows` rows (at least 512 elements), with warps for `columns_per_thread` columns per thread."""
    block_cols = max(16, triton.next_power_of_2(n_cols))
    warps = max(1, min(16, rows * block_cols // (32 * columns_per_thread)))
    return {"BLOCK_ROWS": max(rows, 512 // block_cols), "BLOCK_COLS": block_cols, "num_warps": warps}


def _tiles(problem: Problem, columns_per_thread: int) -> list[Candidate]:
    """Candidates: the tile with `columns_per_thread` first, then its neighbours."""
    found: dict[str, Candidate] = {}
    for rows, columns, reason in (
        (1, columns_per_thread, "few instructions per element, and few enough registers for two programs per SM"),
        (1, 24 - columns_per_thread, "the other balance of registers per thread and warps per row"),
        (2, 16, "twice the bytes in flight per program"),
        (4, 16, "four times the bytes in flight per program"),
    ):
        if _spills(problem, rows, columns_per_thread - columns):
            continue
        options = _options(problem.columns, columns, rows)
        if rows == 1 or rows * options["BLOCK_COLS"] <= 8192:  # larger tiles do not fit in registers
            name = f"{options['BLOCK_ROWS']} rows, {options['num_warps']} warps"
            found.setdefault(name, Candidate(name, options, reason))
    return list(found.values())


def _spills(problem: Problem, rows: int, fewer_columns: int) -> bool:
    """Whether `rows` rows, with `fewer_columns` per thread than the default, spill with dropout (bench.codegen)."""
    if rows == 4:
        return problem.architecture.startswith("sm_8")
    return rows == 1 and fewer_columns > 0 and (problem.architecture, problem.dtype) == ("sm_100", "float32")


def register_candidates(op: str) -> None:
    """Register the tiles of `op`_forward and `op`_backward.

    The default is 16 columns per thread: more rows, and so more bytes, are in flight per SM, and at 768 columns with
    dropout there are 42 instructions per element instead of 54 (at 8). Backward above 2048 columns uses 8, because with
    16 the registers of an SM no longer fit two programs.
    """
    candidates(f"{op}_forward")(lambda problem: _tiles(problem, 16))
    candidates(f"{op}_backward")(lambda problem: _tiles(problem, 8 if problem.columns > 2048 else 16))


def launch_options(op: str, like: Tensor) -> dict[str, int]:
    """Launch options of the tile chosen for `op` on rows like `like` [T, H]."""
    return chosen(problem_of(op, like, *like.shape)).options


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Empty tensors for mean and 1 / standard deviation [T] of the rows of x [T, H], in the accumulation dtype."""
    mean = x.new_empty(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
    return mean, torch.empty_like(mean)


def chunk_rows(op: str, like: Tensor) -> int:
    """`rows_per_chunk` of the backward `op` for rows like `like` [T, H], with its chosen tile."""
    return rows_per_chunk(*like.shape, launch_options(op, like)["BLOCK_ROWS"])


def rows_per_chunk(n_rows: int, n_cols: int, block_rows: int, n_vectors: int = 3) -> int:
    """Rows per partial sum (of n_vectors vectors) in backward; depends only on shape and tile, for reproducibility.

    At most 528 chunks (four for each of 132 SMs; fewer for wide rows, so that the partial sums stay within 8 MiB and in
    L2), and at least 8 rows per chunk, below which the partial sums would dominate the traffic.
    """
    most = max(1, min(528, 132 * 4096 // n_cols, (8 << 20) // (4 * n_vectors * n_cols)))
    return cdiv(max(8, cdiv(n_rows, most)), block_rows) * block_rows
