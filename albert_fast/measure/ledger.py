"""The ledger of a step: every op of forward, backward and update, with its bytes, FLOPs and launches.

The real step runs on the meta device, as for memory predictions; opaque ops that call a library are recorded through
their bodies. pricing.py turns the entries into seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from albert_fast.kernels.cost import Cost
from albert_fast.measure.costs import costs_of, is_free
from albert_fast.measure.place import Place, Places
from albert_fast.measure.step_spec import StepSpec

SHAPE_SHOWN_BYTES = 20_000_000  # smaller ops of the same name share a row regardless of shape


@dataclass(frozen=True)
class Entry:
    """`count` identical ops: phase, "part of the model: op [shape]", and their total costs."""

    phase: str
    op: str
    cost: Cost
    count: int = 1

    def times(self, factor: int) -> Entry:
        """This entry with `factor` times the count and costs."""
        c = self.cost
        least = None if c.least_bytes is None else factor * c.least_bytes
        cost = replace(
            c, bytes=factor * c.bytes, flops=factor * c.flops, launches=factor * c.launches, least_bytes=least
        )
        return replace(self, cost=cost, count=factor * self.count)


class Ledger(TorchDispatchMode):
    """Context manager that records every op that launches kernels.

    Args:
        root: the model whose modules name the parts.
        bodies: Python bodies to run in place of opaque ops, so that the ops they call are recorded.
    """

    def __init__(self, root: torch.nn.Module | None = None, bodies: dict[Any, Callable] | None = None):
        super().__init__()
        self.entries: list[Entry] = []
        self.updating = False
        self._places, self._bodies = Places(root), bodies or {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self._bodies:
            with self:
                return self._bodies[func](*args, **kwargs)
        result = func(*args, **kwargs)
        place = self._places.find()
        if not is_free(func):
            for cost in costs_of(func, args, kwargs, result):
                self.entries.append(Entry(self._phase(), _describe(place, func, cost, result), cost))
        return result

    def _phase(self) -> str:
        if self.updating:
            return "update"
        return "forward" if torch._C._current_autograd_node() is None else "backward"


def _describe(place: Place, func: Any, cost: Cost, result: Any) -> str:
    """ "part: op [shape]", with the part if known and the shape if the op is large."""
    name = f"{func.overloadpacket.__name__} (library)" if cost.name == "library" else cost.name.strip("_")
    shapes = [list(x.shape) for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
    shape = f" {shapes[0]}" if shapes and cost.bytes > SHAPE_SHOWN_BYTES else ""
    part = place.module.removeprefix("encoder.")
    return f"{part}: {name}{shape}" if part else f"{name}{shape}"


def record(spec: StepSpec, ffn: str = "library") -> list[Entry]:
    """Record one step of `spec`: forward and backward of each micro-batch, then the update.

    ffn selects the products of the feed-forward layers: library or ours.
    """
    ops = spec.ops()
    gelu_ffn = partial(ops.gelu_ffn, implementation="library" if ffn == "library" else "pointer")  # type: ignore[call-arg]
    step = spec.build_on_meta(gelu_ffn=gelu_ffn)
    ledger = Ledger(step.model, spec.bodies())
    with torch.device("meta"), ledger:
        step.micro_step()
        micro_batch = ledger.entries
        ledger.entries, ledger.updating = [], True
        step.update()
    again = spec.train.gradient_accumulation_steps
    return [entry.times(again) for entry in micro_batch] + ledger.entries
