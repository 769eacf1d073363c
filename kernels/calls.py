"""The calls of our ops in a training run, declared in each kernel file and collected from one list.

They are compiled offline for every target, counted against the declared costs, checked on a card, and run under
compute-sanitizer.
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
    """Sizes of a model and a batch."""

    tokens: int
    hidden: int
    intermediate: int
    heads: int = 1
    embedding: int = 128
    vocabulary: int = 21128
    predictions: int = 0


Make = Callable[..., Tensor]  # make(*shape, dtype): the caller decides device and values


@dataclass(frozen=True)
class Call:
    """An op and its arguments."""

    op: Any  # torch.library.CustomOpDef
    arguments: tuple[Any, ...]

    @property
    def name(self) -> str:
        return f"{self.op._namespace}::{self.op._name}"

    def __call__(self) -> Any:
        """Call the op through PyTorch's dispatcher."""
        return self.op(*self.arguments)

    def launch(self) -> Any:
        """Call the op's own body on any device; to record launches, meta tensors suffice."""
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
    """Call `run`, then once more for each other candidate of each problem that it looks up."""
    with asking() as problems:
        run()
    for problem in problems:
        for candidate in candidates_of(problem)[1:]:
            with running({problem: candidate}):
                run()


def empty(device: str) -> Make:
    """Make uninitialised tensors, for recording and counting launches."""
    return lambda *shape, dtype: torch.empty(shape, dtype=dtype, device=device)


def random(device: str, seed: int = 0) -> Make:
    """Make standard normal tensors; integer tensors are zero."""
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int, dtype: torch.dtype) -> Tensor:
        if not dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype, device=device)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)

    return make
