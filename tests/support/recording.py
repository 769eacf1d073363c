"""Simulates CUDA graphs on any device: records the aten ops of a function and replays them.

Like a graph, a recording freezes which memory is read and written and the values of all Python numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

# Ops that synchronize the host or have data-dependent shapes.
DATA_DEPENDENT = ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique", "aten.equal.default", "bincount")


@dataclass(frozen=True)
class _Earlier:
    """A reference to the output of an earlier op of the recording."""

    index: int


@dataclass
class Recording(TorchDispatchMode):
    """Records every op in its `with` block; `replay` runs them again."""

    ops: list[tuple[Callable, list[Any], Any, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.made: dict[int, int] = {}
        self.alive: list[Any] = []  # keeps ids unique

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves, spec = tree_flatten((args, kwargs or {}))
        inputs = [_Earlier(self.made[id(x)]) if id(x) in self.made else x for x in leaves]
        result = func(*args, **(kwargs or {}))
        outputs = tree_flatten(result)[0]
        self.alive += [*leaves, *outputs]
        known = {id(x) for x in leaves}
        indices = []
        for output in outputs:
            if isinstance(output, torch.Tensor) and (id(output) not in known or id(output) in self.made):
                self.made.setdefault(id(output), len(self.made))
                indices.append(self.made[id(output)])
            else:
                indices.append(-1)
        self.ops.append((func, inputs, spec, indices))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        values: dict[int, Any] = {}
        for func, inputs, spec, indices in self.ops:
            args, kwargs = tree_unflatten([values[x.index] if isinstance(x, _Earlier) else x for x in inputs], spec)
            values.update(zip(indices, tree_flatten(func(*args, **kwargs))[0], strict=True))

    def names(self) -> list[str]:
        return [str(func) for func, *_ in self.ops]

    def data_dependent(self) -> list[str]:
        return [name for name in self.names() if any(bad in name for bad in DATA_DEPENDENT)]

    def signature(self) -> list[Any]:
        """Each op with the location of its arguments: a fixed address, or the output of an earlier op."""

        def place(x: Any) -> Any:
            if isinstance(x, torch.Tensor):
                return ("at", x.untyped_storage().data_ptr(), x.storage_offset(), tuple(x.shape))
            return x

        return [(str(func), tree_map(place, inputs)) for func, inputs, *_ in self.ops]
