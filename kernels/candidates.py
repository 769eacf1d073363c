"""The ways in which an op may run, each with its reason, and which of them does.

An op asks `chosen(problem)` when it launches. It gets the first of its candidates, unless whoever timed them on a card
chose another, for the process (`choose`) or for a while (`running`). A choice changes speed and the order in which
partial sums are added. It depends on the problem alone, so that runs repeat bitwise.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch


class Problem(NamedTuple):
    """What a choice may depend on.

    rows_to is the number of rows rounded up to a power of two; depth is that of a product, 0 where there is none;
    length_to is that of the longest sequence, rounded up likewise, 0 where sequences do not matter.
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
    """One way to run an op: `options` are its launch's (None where a library runs instead), `reason` why it may win."""

    name: str
    options: Any
    reason: str


_CANDIDATES: dict[str, Callable[[Problem], list[Candidate]]] = {}
_choices: dict[Problem, Candidate] = {}
_asked: dict[Problem, None] = {}
_target: str | None = None


def candidates(*ops: str) -> Callable[[Callable[[Problem], list[Candidate]]], Callable[[Problem], list[Candidate]]]:
    """Registers what gives the candidates of problems of `ops`; the first is the default, the library's where it is."""

    def register(function: Callable[[Problem], list[Candidate]]) -> Callable[[Problem], list[Candidate]]:
        cached = cache(function)
        _CANDIDATES.update(dict.fromkeys(ops, cached))
        return cached

    return register


def candidates_of(problem: Problem) -> list[Candidate]:
    return _CANDIDATES[problem.op](problem)


def problem_of(
    op: str, like: torch.Tensor, n_rows: int, columns: int, depth: int = 0, length: int | None = None
) -> Problem:
    """The problem of an op on tensors like `like`: its device and dtype. Under tracing a size may be symbolic."""
    sizes = int(n_rows), int(columns), int(depth), None if length is None else int(length)
    return _problem_of(op, like.device, like.dtype, *sizes, _target)


@lru_cache(4096)  # an op asks at every call
def _problem_of(
    op: str, device: torch.device, dtype: torch.dtype, n_rows: int, columns: int, depth: int, length: int | None,
    _: str | None,
) -> Problem:  # fmt: skip
    length_to = 0 if length is None else _power_of_two(length)
    where = architecture(device), str(dtype).removeprefix("torch.")
    return Problem(op, *where, _power_of_two(n_rows), columns, depth, length_to)


def _power_of_two(size: int) -> int:
    """`size` rounded up to one."""
    return 1 << max(0, size - 1).bit_length()


def chosen(problem: Problem) -> Candidate:
    """The candidate that runs `problem`."""
    _asked.setdefault(problem)
    return _choices.get(problem) or candidates_of(problem)[0]


def choose(choices: Mapping[Problem, Candidate]) -> None:
    """From now on these candidates run these problems."""
    _choices.update(choices)


@contextmanager
def running(choices: Mapping[Problem, Candidate]) -> Iterator[None]:
    """Within it, these candidates run these problems."""
    before = dict(_choices)
    choose(choices)
    try:
        yield
    finally:
        _choices.clear()
        _choices.update(before)


@contextmanager
def asking() -> Iterator[list[Problem]]:
    """Yields a list that holds, after the block, the problems which ops asked about inside: run a step to find its."""
    before, found = dict(_asked), []  # type: tuple[dict[Problem, None], list[Problem]]
    _asked.clear()
    try:
        yield found
    finally:
        found += _asked
        _asked.update(before)


@contextmanager
def targeting(architecture: str) -> Iterator[None]:
    """Within it, tensors of no card count as on this one: to compile for it without having it."""
    global _target
    before, _target = _target, architecture
    try:
        yield
    finally:
        _target = before


def architecture(device: torch.device) -> str:
    """sm_90, gfx942, ... of a card; elsewhere what `targeting` says, or sm_90, whose candidates exercise every path."""
    return _architecture(device) if device.type == "cuda" and torch.cuda.is_available() else _target or "sm_90"


@cache
def _architecture(device: torch.device) -> str:
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
