"""Tiles of the kernels that take whole rows (LayerNorm and its kin), and how backward cuts rows into partial sums."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv
from .candidates import Candidate, Problem, candidates, chosen, problem_of


@triton.jit
def row_tile(first, last, cols, N_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """BLOCK_ROWS rows from `first` and which come before `last`; their elements' offsets, and which of these exist."""
    rows = first + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < last
    mask = row_mask[:, None] & (cols < N_COLS)[None, :]
    return rows, row_mask, rows.to(tl.int64)[:, None] * N_COLS + cols[None, :], mask


def _options(n_cols: int, columns_per_thread: int, rows: int) -> dict[str, int]:
    """A tile of `rows` rows, or of as many as 512 elements hold, and the warps that give a thread so many columns."""
    block_cols = max(16, triton.next_power_of_2(n_cols))
    warps = max(1, min(16, rows * block_cols // (32 * columns_per_thread)))
    return {"BLOCK_ROWS": max(rows, 512 // block_cols), "BLOCK_COLS": block_cols, "num_warps": warps}


def _tiles(problem: Problem, columns_per_thread: int) -> list[Candidate]:
    """`columns_per_thread` first, then the neighbours."""
    found: dict[str, Candidate] = {}
    for rows, columns, reason in (
        (1, columns_per_thread, "few instructions per element, and registers enough for two programs an SM"),
        (1, 24 - columns_per_thread, "the other balance of registers a thread and warps a row"),
        (2, 16, "twice the bytes in flight a program"),
        (4, 16, "four times the bytes in flight a program"),
    ):
        if _spills(problem, rows, columns_per_thread - columns):
            continue
        options = _options(problem.columns, columns, rows)
        if rows == 1 or rows * options["BLOCK_COLS"] <= 8192:  # a larger tile does not fit in registers
            name = f"{options['BLOCK_ROWS']} rows, {options['num_warps']} warps"
            found.setdefault(name, Candidate(name, options, reason))
    return list(found.values())


def _spills(problem: Problem, rows: int, fewer_columns: int) -> bool:
    """Whether so many rows, at so many columns a thread below the default's, spill with dropout (bench.codegen)."""
    if rows == 4:
        return problem.architecture.startswith("sm_8")
    return rows == 1 and fewer_columns > 0 and (problem.architecture, problem.dtype) == ("sm_100", "float32")


def register_candidates(op: str) -> None:
    """The tiles of `op`_forward and `op`_backward.

    16 columns a thread: bytes in flight per SM grow with the rows in flight, and instructions per element fall from 54
    (at 8) to 42 at 768 with dropout. Backward above 2048 takes 8, because with 16 two programs no longer fit an SM's
    registers.
    """
    candidates(f"{op}_forward")(lambda problem: _tiles(problem, 16))
    candidates(f"{op}_backward")(lambda problem: _tiles(problem, 8 if problem.columns > 2048 else 16))


def launch_options(op: str, like: Tensor) -> dict[str, int]:
    """The chosen tile and warps of `op` for the rows of `like` [T, H]."""
    return chosen(problem_of(op, like, *like.shape)).options


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the mean and 1 / standard deviation [T] of the rows of x [T, H], in fp32 or, of fp64, in that."""
    mean = x.new_empty(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
    return mean, torch.empty_like(mean)


def chunk_rows(op: str, like: Tensor) -> int:
    """`rows_per_chunk` of `op`, a backward, for the rows of `like` [T, H] and its chosen tile."""
    return rows_per_chunk(*like.shape, launch_options(op, like)["BLOCK_ROWS"])


def rows_per_chunk(n_rows: int, n_cols: int, block_rows: int, n_vectors: int = 3) -> int:
    """Rows that backward sums into one partial of n_vectors rows; a function of shape and tile alone, so the bits are.

    At most 528 chunks (four for each of 132 SMs; fewer for wide rows, to keep the partials within 8 MiB and so in L2),
    and no chunk below 8 rows, where partials would outweigh what they sum.
    """
    most = max(1, min(528, 132 * 4096 // n_cols, (8 << 20) // (4 * n_vectors * n_cols)))
    return cdiv(max(8, cdiv(n_rows, most)), block_rows) * block_rows
