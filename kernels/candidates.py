"""Candidate launch configurations of each op, with reasons, and the choice among them.

At launch, an op calls `chosen(problem)` and gets its first candidate, unless tuning has chosen another, for the process
(`choose`) or within a block (`running`). A choice affects speed and the order in which partial sums are added. It
depends only on the problem, so that runs are bitwise reproducible.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import torch

from . import KERNELS


class Problem(NamedTuple):
    """The key of a choice.

    rows_to: number of rows, rounded up to a power of two; depth: inner dimension of a product, else 0; length_to:
    length of the longest sequence, rounded up likewise, or 0 if sequences do not matter.
    """

    op: str
    architecture: str
    dtype: str
    rows_to: int
    columns: int
    depth: int = 0
    length_to: int = 0


@dataclass(frozen=True)
class Candidate:
    """A way to run an op: its launch `options` (None for a library call) and the `reason` why it may win."""

    name: str
    options: Any
    reason: str


_CANDIDATES: dict[str, Callable[[Problem], list[Candidate]]] = {}
_choices: dict[Problem, Candidate] = {}
_asked: dict[Problem, None] = {}
_target: str | None = None


def candidates(*ops: str) -> Callable[[Callable[[Problem], list[Candidate]]], Callable[[Problem], list[Candidate]]]:
    """Decorator: registers a function that lists the candidates for problems of `ops`, the default first."""

    def register(function: Callable[[Problem], list[Candidate]]) -> Callable[[Problem], list[Candidate]]:
        cached = cache(function)
        _CANDIDATES.update(dict.fromkeys(ops, cached))
        return cached

    return register


def candidates_of(problem: Problem) -> list[Candidate]:
    if problem.op not in _CANDIDATES:  # a kernel registers its own when its module is imported
        for module in KERNELS:
            import_module(f"{__package__}.{module}")
    return _CANDIDATES[problem.op](problem)


def problem_of(
    op: str, like: torch.Tensor, n_rows: int, columns: int, depth: int = 0, length: int | None = None
) -> Problem:
    """The problem of an op on tensors with the device and dtype of `like`. Sizes may be symbolic under tracing."""
    sizes = int(n_rows), int(columns), int(depth), None if length is None else int(length)
    return _problem_of(op, like.device, like.dtype, *sizes, _target)


@lru_cache(4096)  # called at every launch
def _problem_of(
    op: str, device: torch.device, dtype: torch.dtype, n_rows: int, columns: int, depth: int, length: int | None,
    _: str | None,
) -> Problem:  # fmt: skip
    length_to = 0 if length is None else _power_of_two(length)
    where = architecture(device), str(dtype).removeprefix("torch.")
    return Problem(op, *where, _power_of_two(n_rows), columns, depth, length_to)


def _power_of_two(size: int) -> int:
    """Round `size` up to a power of two."""
    return 1 << max(0, size - 1).bit_length()


def chosen(problem: Problem) -> Candidate:
    """The candidate to run for `problem`."""
    _asked.setdefault(problem)
    return _choices.get(problem) or candidates_of(problem)[0]


def choose(choices: Mapping[Problem, Candidate]) -> None:
    """Use these candidates for these problems from now on."""
    _choices.update(choices)


@contextmanager
def running(choices: Mapping[Problem, Candidate]) -> Iterator[None]:
    """Use these candidates for these problems within the block."""
    before = dict(_choices)
    choose(choices)
    try:
        yield
    finally:
        _choices.clear()
        _choices.update(before)


@contextmanager
def asking() -> Iterator[list[Problem]]:
    """Yields a list that is filled, at the end of the block, with the problems looked up inside it."""
    before, found = dict(_asked), []  # type: tuple[dict[Problem, None], list[Problem]]
    _asked.clear()
    try:
        yield found
    finally:
        found += _asked
        _asked.update(before)


@contextmanager
def targeting(architecture: str) -> Iterator[None]:
    """Within the block, assume this architecture for tensors that are not on a GPU, to compile for it."""
    global _target
    before, _target = _target, architecture
    try:
        yield
    finally:
        _target = before


def architecture(device: torch.device) -> str:
    """sm_90, gfx942, ... of a card; elsewhere that of `targeting`, or sm_90, whose candidates cover every code path."""
    return _architecture(device) if device.type == "cuda" and torch.cuda.is_available() else _target or "sm_90"


@cache
def _architecture(device: torch.device) -> str:
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
