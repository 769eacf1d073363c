"""What an op moves and does: stated once, beside its fake, as a function of its arguments.

`measure` prices these for a card, and a test holds each to what the interpreter counts. Arguments may be meta tensors:
shapes and dtypes say it all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Kind = Literal["product", "attention", "layer_norm", "memory"]


@dataclass(frozen=True)
class Cost:
    """One kernel, or one call of a library, in an op.

    Attributes:
        name: the kernel's, or "library" for a call of cuBLAS.
        bytes: what reaches memory, every operand once, partial sums included.
        flops: of matrix products (2 M N K); 0 where nothing but memory can be the bound.
        launches: kernels started.
        kind: the class that the ledger adds it to.
        least_bytes: what the best fusion that we know would move here; `bytes` without partial sums where not given.
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
    """Registers a function of an op's arguments as what the op costs; `op` is its name, albert_fast::add_layer_norm."""

    def register(function: Callable[..., list[Cost]]) -> Callable[..., list[Cost]]:
        _COSTS[op] = function
        return function

    return register


def cost_of(op: str, *arguments: Any, **keywords: Any) -> list[Cost] | None:
    """The kernels of one call of `op` in order, or None where the op states no cost.

    A dispatch mode has the name as `func._schema.name` and passes on the arguments that it is given.
    """
    function = _COSTS.get(op)
    return None if function is None else function(*arguments, **keywords)


def stated() -> frozenset[str]:
    """The names of the ops whose costs are stated, of the modules imported so far."""
    return frozenset(_COSTS)


def size_of(*tensors: Tensor | None) -> int:
    """Bytes of the tensors together; None has none."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
