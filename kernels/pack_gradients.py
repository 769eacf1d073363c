"""Packs the gradients of queries, keys and values into the gradient of their joint projection, and sums its bias.

Backward of flash attention returns three tensors [T, N, D'], where D' is the padded head size. One pass writes them as
one [T, K, N, D] without padding and sums its columns in fp32 for the bias gradient; PyTorch's stack, narrow and sum
would make three passes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import cdiv
from .calls import Call
from .candidates import Candidate, Problem, candidates, chosen, problem_of
from .cost import Cost, costs, size_of
from .eager import direct
from .partial_sums import store_partial
from .rows import rows_per_chunk


@triton.jit(do_not_specialize=["n_rows", "rows_per_chunk"])
def _pack_gradients_kernel(
    part0_ptr, part1_ptr, part2_ptr, packed_ptr, partial_ptr, n_rows, rows_per_chunk,
    N_PARTS: tl.constexpr, N_COLS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, ADDS: tl.constexpr,
):  # fmt: skip
    part, chunk = tl.program_id(2), tl.program_id(1)
    cols = tl.program_id(0) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    col_mask = cols < N_COLS
    source_cols = cols
    if SIZE != PADDED:
        source_cols = cols // SIZE * PADDED + cols % SIZE
    source_ptr = part0_ptr
    if part == 1:
        source_ptr = part1_ptr
    if part == 2:
        source_ptr = part2_ptr
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLS), partial_ptr.dtype.element_ty)
    first = chunk * rows_per_chunk
    last = tl.minimum(first + rows_per_chunk, n_rows)
    for start in range(first, last, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        mask = (rows < last)[:, None] & col_mask[None, :]
        rows = rows.to(tl.int64)[:, None]
        grad = tl.load(source_ptr + rows * (N_COLS // SIZE * PADDED) + source_cols[None, :], mask, other=0.0)
        tl.store(packed_ptr + (rows * N_PARTS + part) * N_COLS + cols[None, :], grad, mask)
        total += grad.to(partial_ptr.dtype.element_ty)
    partial_ptr += (chunk.to(tl.int64) * N_PARTS + part) * N_COLS
    store_partial(partial_ptr + cols, tl.sum(total, axis=0), col_mask, ADDS)


@candidates("pack_gradients")
def _candidates(problem: Problem) -> list[Candidate]:
    found = []
    for rows, cols, warps, reason in (
        (4, 512, 4, "16 elements a thread"),
        (8, 256, 4, "the same, with fewer idle columns for odd widths"),
        (8, 512, 4, "32 elements per thread: twice the bytes in flight"),
        (4, 1024, 8, "longer runs of one row"),
    ):
        options = {"BLOCK_ROWS": rows, "BLOCK_COLS": cols, "num_warps": warps}
        found.append(Candidate(f"{rows} x {cols}, {warps} warps", options, reason))
    return [*found, Candidate("torch", None, "PyTorch's stack, narrow and sum: correct even if no tile is")]


def _options(like: Tensor, n_rows: int, n_cols: int) -> dict[str, int] | None:
    return chosen(problem_of("pack_gradients", like, n_rows, n_cols)).options


def _rows_per_chunk(like: Tensor, n_rows: int, n_parts: int, n_cols: int) -> int:
    """Rows per partial sum; all rows for PyTorch's sum."""
    options = _options(like, n_rows, n_cols)
    return max(1, n_rows) if options is None else rows_per_chunk(n_rows, n_cols, options["BLOCK_ROWS"], n_parts)


def chunk_count(packed: Tensor) -> int:
    """Number of partial sums for packed [T, K, N, D], a function of its shape and the tile."""
    n_rows, n_parts, heads, size = packed.shape
    return cdiv(n_rows, _rows_per_chunk(packed, n_rows, n_parts, heads * size))


@torch.library.custom_op("albert_fast::pack_gradients", mutates_args=("sums",))
def _pack_gradients(parts: list[Tensor], head_size: int, sums: Tensor | None) -> tuple[Tensor, Tensor]:
    n_rows, heads, padded = parts[0].shape
    n_cols = heads * head_size
    options = _options(parts[0], n_rows, n_cols)
    packed, partials = _pack_gradients_fake(parts, head_size, sums)
    if options is None:
        packed = torch.stack([part[..., :head_size] for part in parts], 1)
        total = packed.flatten(1).sum(0, dtype=partials.dtype)
        if sums is not None:
            sums += total
            return packed, partials
        return packed, total.expand_as(partials).contiguous()
    written = partials if sums is None else sums
    parts = [part.contiguous() for part in parts]
    if n_rows:
        grid = cdiv(n_cols, options["BLOCK_COLS"]), written.shape[0], len(parts)
        with torch.cuda.device_of(packed):
            _pack_gradients_kernel[grid](
                *parts, *[parts[0]] * (3 - len(parts)), packed, written, n_rows,
                _rows_per_chunk(packed, n_rows, len(parts), n_cols),
                N_PARTS=len(parts), N_COLS=n_cols, SIZE=head_size, PADDED=padded, ADDS=sums is not None,
                **options,
            )  # fmt: skip
    return packed, partials


@_pack_gradients.register_fake
def _pack_gradients_fake(parts, head_size, sums):
    n_rows, heads, _ = parts[0].shape
    packed = parts[0].new_empty(n_rows, len(parts), heads, head_size)
    acc_dtype = torch.promote_types(packed.dtype, torch.float32)
    chunks = chunk_count(packed) if sums is None else 0
    return packed, packed.new_empty(chunks, 1, len(parts) * heads * head_size, dtype=acc_dtype)


@costs("albert_fast::pack_gradients")
def _pack_gradients_costs(parts, head_size, sums):
    packed, partials = _pack_gradients_fake(parts, head_size, sums)
    # Padding past what one access takes of a head is not read, but memory moves whole sectors, so count it all.
    least = 2 * size_of(packed)
    return [Cost("_pack_gradients_kernel", least + size_of(partials, sums, sums), least_bytes=least)]


packing = direct(_pack_gradients)


def calls(sizes, dtype, make):
    size = sizes.hidden // sizes.heads
    for n_parts in (3, 2, 1):
        parts = [make(sizes.tokens, sizes.heads, size + -size % 8, dtype=dtype) for _ in range(n_parts)]
        yield Call(_pack_gradients, (parts, size, None))
    partials = _pack_gradients_fake(parts, size, None)[1]
    yield Call(_pack_gradients, (parts, size, make(*partials.shape, dtype=partials.dtype)))


def pack_gradients(parts: list[Tensor], head_size: int, sums: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """K = 1 to 3 gradients [T, N, D'], D' >= D = head_size -> [T, K, N, D] and partial column sums [P, 1, K N D].

    The partial sums are fp32 (fp64 for fp64); `partial_sums.vector_gradients` reduces them to the bias gradient. If
    `sums` holds those of an earlier use, the new ones are added to it and none are returned (P = 0).

    Raises:
        ValueError: shapes disagree, or there are more than three.
    """
    shapes = {part.shape for part in parts}
    if not 1 <= len(parts) <= 3 or len(shapes) > 1 or parts[0].dim() != 3 or parts[0].shape[2] < head_size:
        raise ValueError(f"{[list(p.shape) for p in parts]} must be one to three [T, N, D'], D' >= {head_size}, alike")
    return packing(parts, head_size, sums)
