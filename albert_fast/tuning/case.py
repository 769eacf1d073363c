"""A call of an op on given inputs, whose results are checked and whose passes are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from albert_fast.ops import Ops


@dataclass(frozen=True)
class Case:
    """One call of an op: its positional arguments, of which the float tensors but `fixed` are differentiated.

    function: what is called, where it is no op of `Ops`; plain: the reference, where it is not that of `Ops`; slack:
    the relative L2 error allowed beside twice the reference's, where results are rounded less than inputs; scatter: how
    many times as much as by one rounding of the results they may differ, since what is kept inside is rounded too.
    """

    op: str
    arguments: tuple[Any, ...]
    fixed: tuple[int, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None
    plain: Callable[..., Any] | None = None
    slack: float | None = None
    scatter: float = 1.0

    def implementation(self, ops: Ops) -> Callable[..., Any]:
        """What is checked and timed: the function, or its namesake of `ops`."""
        return self.function or getattr(ops, self.op)

    def reference(self) -> Callable[..., Any]:
        """What an implementation is held against."""
        return self.plain or getattr(Ops(), self.op)

    def on(self, device: torch.device) -> Case:
        """The same call on another device."""

        def moved(x: Any) -> Any:
            return x.to(device) if isinstance(x, Tensor) else x

        keywords = {name: moved(x) for name, x in self.keywords.items()}
        return replace(self, arguments=tuple(map(moved, self.arguments)), keywords=keywords)

    def inputs(self, dtype: torch.dtype) -> tuple[list[Any], list[Tensor]]:
        """The arguments, in `dtype`, and those of them that gradients are asked of."""
        given = list(self.arguments)
        for i, value in enumerate(given):
            if isinstance(value, Tensor) and value.is_floating_point() and i not in self.fixed:
                given[i] = value.detach().to(dtype).requires_grad_()
        return given, [x for x in given if isinstance(x, Tensor) and x.requires_grad]

    def results(
        self, function: Callable[..., Any], dtype: torch.dtype, drawn_on: torch.device | None = None
    ) -> dict[str, Tensor]:
        """Every output and every gradient of `function` with the inputs in `dtype`, by name.

        drawn_on: the device that draws the outputs' gradients, their own by default: a CPU takes seconds for a card's.
        """
        given, leaves = self.inputs(dtype)
        outputs = _several(function(*given, **self.keywords))
        smooth = [x for x in outputs if x.requires_grad]
        seeds: list[Tensor] = []
        for x in smooth:
            where = drawn_on or x.device
            generator = torch.Generator(where).manual_seed(1 + len(seeds))
            seeds.append(torch.randn(x.shape, generator=generator, device=where).to(x))
        gradients = torch.autograd.grad(smooth, leaves, seeds) if smooth else ()
        found = {f"output {i}": x.detach() for i, x in enumerate(outputs)}
        return found | {f"gradient {i}": x for i, x in enumerate(gradients)}

    def forward(self, function: Callable[..., Any], dtype: torch.dtype) -> Callable[[], Any]:
        """A call of the forward pass alone, on inputs that stay where they are."""
        given, _ = self.inputs(dtype)
        return torch.no_grad()(lambda: function(*given, **self.keywords))

    def backward(self, function: Callable[..., Any], dtype: torch.dtype) -> Callable[[], Any]:
        """A call of the backward pass alone, over one forward pass, which the first call makes and all others keep.

        Not made here: autograd runs backward on the stream of the forward pass, so the stream that captures the call
        must have run that (tuning/clock.py; pytorch#164302).
        """
        given, leaves = self.inputs(dtype)
        passed = cache(lambda: self._passed(function, given))
        return lambda: torch.autograd.grad(passed()[0], leaves, passed()[1], retain_graph=True)

    def both(self, function: Callable[..., Any], dtype: torch.dtype) -> Callable[[], Any]:
        """A call of forward and backward, on inputs that stay where they are."""
        given, leaves = self.inputs(dtype)

        def run() -> Any:
            outputs, seeds = self._passed(function, given)
            return torch.autograd.grad(outputs, leaves, seeds)

        return run

    def _passed(self, function: Callable[..., Any], given: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs of a forward pass that have gradients, and ones to begin the backward pass with."""
        smooth = [x for x in _several(function(*given, **self.keywords)) if x.requires_grad]
        return smooth, [torch.ones_like(x) for x in smooth]


def _several(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
