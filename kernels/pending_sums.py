"""Partial sums shared by all uses of a layer, so that they are reduced once per backward pass instead of at each use.

A backward kernel leaves one partial sum per chunk of rows, owned by one program. When the same vectors get another
gradient from equally many rows, the kernel adds to the existing partial sums; kernels on one stream run in order, so
results are bitwise reproducible. This is opt-in because until `collecting` ends, part of the gradients is not yet in
main_grad.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

MOST = 4  # those of one layer: both LayerNorms, the query-key-value bias, the feed-forward bias
Key = tuple[int, ...]

# Global rather than thread-local because autograd runs backward in its own threads.
_pending: dict[Key, tuple[Tensor, Sequence[Tensor]]] | None = None  # in order of last use


@contextmanager
def collecting() -> Iterator[None]:
    """Within the block, partial sums may stay pending; at its end all are added to main_grad."""
    global _pending
    assert _pending is None, "collecting() cannot be nested: the inner block would end before backward"
    _pending = {}
    try:
        yield
        while _pending:
            _reduce_oldest(_pending)
    finally:
        _pending = None


def pending(main_grads: Sequence[Tensor | None], n_rows: int) -> Tensor | None:
    """Pending partial sums of these vectors that backward over n_rows rows must add to; None if there are none."""
    if _pending is None or (key := _key(main_grads, n_rows)) not in _pending:
        return None
    _pending[key] = _pending.pop(key)
    return _pending[key][0]


def wait(partials: Tensor, main_grads: Sequence[Tensor], n_rows: int) -> bool:
    """Make new partial sums [P, K, N] of K vectors pending; False if not collecting, so the caller must reduce them."""
    if _pending is None:
        return False
    key = _key(main_grads, n_rows)
    assert key not in _pending, "new partial sums although some are already pending"
    _pending[key] = partials, main_grads
    if len(_pending) > MOST:
        _reduce_oldest(_pending)
    return True


def _reduce_oldest(waiting: dict[Key, tuple[Tensor, Sequence[Tensor]]]) -> None:
    partials, main_grads = waiting.pop(next(iter(waiting)))
    torch.ops.albert_fast.accumulate_partials(partials, main_grads)


def _key(main_grads: Sequence[Tensor | None], n_rows: int) -> Key:
    """Identifies the memory of the vectors' gradients (on the meta device too) and the number of rows."""
    places = ((g.untyped_storage()._cdata, g.storage_offset(), g.numel()) for g in main_grads if g is not None)
    return n_rows, *(number for place in places for number in place)
