"""Declared costs of the ops: bytes, FLOPs and launches as a function of the arguments, next to each fake.

`measure` prices them for a card, and a test compares each with what the interpreter counts. Arguments may be meta
tensors: only shapes and dtypes matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Kind = Literal["product", "attention", "layer_norm", "memory"]


@dataclass(frozen=True)
class Cost:
    """Cost of one kernel or library call within an op.

    Attributes:
        name: name of the kernel, or "library" for a cuBLAS call.
        bytes: memory traffic, each operand once, including partial sums.
        flops: FLOPs of matrix products (2 M N K); 0 for memory-bound kernels.
        launches: number of kernel launches.
        kind: class of op in the ledger.
        least_bytes: traffic of the best known fusion; by default `bytes` without partial sums.
    """

    name: str
    bytes: int
    flops: int = 0
    launches: int = 1
    kind: Kind = "memory"
    least_bytes: int | None = None

    @property
    def floor_bytes(self) -> int:
        return self.bytes if self.least_bytes is None else self.least_bytes


_COSTS: dict[str, Callable[..., list[Cost]]] = {}


def costs(op: str) -> Callable[[Callable[..., list[Cost]]], Callable[..., list[Cost]]]:
    """Decorator: registers the cost function of the op named `op`, such as albert_fast::add_layer_norm."""

    def register(function: Callable[..., list[Cost]]) -> Callable[..., list[Cost]]:
        _COSTS[op] = function
        return function

    return register


def cost_of(op: str, *arguments: Any, **keywords: Any) -> list[Cost] | None:
    """Costs of one call of `op`, in launch order, or None if the op declares none.

    A dispatch mode passes `func._schema.name` and the arguments that it receives.
    """
    function = _COSTS.get(op)
    return None if function is None else function(*arguments, **keywords)


def stated() -> frozenset[str]:
    """Names of the ops with declared costs, among the modules imported so far."""
    return frozenset(_COSTS)


def size_of(*tensors: Tensor | None) -> int:
    """Total bytes of the tensors; None counts 0."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
