"""Calls of our ops as a run makes them, declared in each kernel's file and found from one list.

They are what is compiled offline for every target, counted against the stated costs, checked on a card, and run under
its sanitizer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from . import KERNELS
from .candidates import asking, candidates_of, running
from .cost import Cost, cost_of


@dataclass(frozen=True)
class Sizes:
    """A model's sizes at one batch."""

    tokens: int
    hidden: int
    intermediate: int
    heads: int = 1
    embedding: int = 128
    vocabulary: int = 21128
    predictions: int = 0


Make = Callable[..., Tensor]  # make(*shape, dtype): on whatever device and with whatever values the caller wants


@dataclass(frozen=True)
class Call:
    """One op on arguments."""

    op: Any  # torch.library.CustomOpDef
    arguments: tuple[Any, ...]

    @property
    def name(self) -> str:
        return f"{self.op._namespace}::{self.op._name}"

    def __call__(self) -> Any:
        """The op, through PyTorch's dispatcher."""
        return self.op(*self.arguments)

    def launch(self) -> Any:
        """The op's own body on whatever device: where launches are recorded, meta tensors will do."""
        return self.op._init_fn(*self.arguments)

    def costs(self) -> list[Cost]:
        stated = cost_of(self.name, *self.arguments)
        assert stated is not None, f"{self.name} states no cost"
        return stated


def calls(sizes: Sizes, dtype: torch.dtype, make: Make, *modules: str) -> Iterator[Call]:
    """Every call of the kernels of `modules` (default: all) at these sizes."""
    for module in modules or KERNELS:
        yield from import_module(f"{__package__}.{module}").calls(sizes, dtype, make)


def with_every_candidate(run: Callable[[], Any]) -> None:
    """`run` as it is, and once more with each other candidate of each problem that it asks about."""
    with asking() as problems:
        run()
    for problem in problems:
        for candidate in candidates_of(problem)[1:]:
            with running({problem: candidate}):
                run()


def empty(device: str) -> Make:
    """Uninitialised tensors, for launches that are recorded or counted."""
    return lambda *shape, dtype: torch.empty(shape, dtype=dtype, device=device)


def random(device: str, seed: int = 0) -> Make:
    """Standard normal numbers; integers are zero."""
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int, dtype: torch.dtype) -> Tensor:
        if not dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype, device=device)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)

    return make
