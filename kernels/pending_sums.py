"""Partial sums that the uses of a shared layer add to in turn, so that they are reduced once and not at each use.

A backward kernel leaves one partial sum per chunk of rows, and each of its programs owns its chunk's. Where the same
vectors get a gradient again from as many rows, the kernel adds to the partial sums that are there: kernels of one
stream run in order, so the bits are the same on every run. Opt-in, because until the end of `collecting` a part of the
gradients is not in main_grad.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

MOST = 4  # a layer's: both LayerNorms, query-key-value's bias, the feed-forward's; more would only wait in memory
Key = tuple[int, ...]

# Of the process and not of a thread: autograd runs backward in threads of its own.
_pending: dict[Key, tuple[Tensor, Sequence[Tensor]]] | None = None  # in the order of their last use


@contextmanager
def collecting() -> Iterator[None]:
    """Within it, partial sums may wait for further uses of their vectors; at its end all are in main_grad."""
    global _pending
    assert _pending is None, "collecting twice: the inner end would come before backward's"
    _pending = {}
    try:
        yield
        while _pending:
            _reduce_oldest(_pending)
    finally:
        _pending = None


def pending(main_grads: Sequence[Tensor | None], n_rows: int) -> Tensor | None:
    """The partial sums to which backward over n_rows rows shall add those of these vectors; None: it makes its own."""
    if _pending is None or (key := _key(main_grads, n_rows)) not in _pending:
        return None
    _pending[key] = _pending.pop(key)
    return _pending[key][0]


def wait(partials: Tensor, main_grads: Sequence[Tensor], n_rows: int) -> bool:
    """Let new partial sums [P, K, N] of K vectors wait; False where none does, and they are to be reduced now."""
    if _pending is None:
        return False
    key = _key(main_grads, n_rows)
    assert key not in _pending, "partial sums were made anew beside those that wait"
    _pending[key] = partials, main_grads
    if len(_pending) > MOST:
        _reduce_oldest(_pending)
    return True


def _reduce_oldest(waiting: dict[Key, tuple[Tensor, Sequence[Tensor]]]) -> None:
    partials, main_grads = waiting.pop(next(iter(waiting)))
    torch.ops.albert_fast.accumulate_partials(partials, main_grads)


def _key(main_grads: Sequence[Tensor | None], n_rows: int) -> Key:
    """Which memory the vectors' gradients lie in, on the meta device too, and from how many rows they come."""
    places = ((g.untyped_storage()._cdata, g.storage_offset(), g.numel()) for g in main_grads if g is not None)
    return n_rows, *(number for place in places for number in place)
