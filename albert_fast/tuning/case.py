"""A call of an op on given inputs, for checking its results and timing its passes."""

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
    """A call of an op with positional arguments; all float tensors except `fixed` are differentiated.

    function: the function to call if it is not an op of `Ops`; plain: the reference if it is not that of `Ops`; slack:
    relative L2 error allowed in addition to twice the reference's, for results that are rounded less than the inputs;
    scatter: allowed difference in units of one rounding of the results, since intermediate values are rounded too.
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
        """The function to check and time, by default the op of the same name in `ops`."""
        return self.function or getattr(ops, self.op)

    def reference(self) -> Callable[..., Any]:
        """The reference implementation."""
        return self.plain or getattr(Ops(), self.op)

    def on(self, device: torch.device) -> Case:
        """The same call on another device."""

        def moved(x: Any) -> Any:
            return x.to(device) if isinstance(x, Tensor) else x

        keywords = {name: moved(x) for name, x in self.keywords.items()}
        return replace(self, arguments=tuple(map(moved, self.arguments)), keywords=keywords)

    def inputs(self, dtype: torch.dtype) -> tuple[list[Any], list[Tensor]]:
        """The arguments in `dtype`, and those among them that require gradients."""
        given = list(self.arguments)
        for i, value in enumerate(given):
            if isinstance(value, Tensor) and value.is_floating_point() and i not in self.fixed:
                given[i] = value.detach().to(dtype).requires_grad_()
        return given, [x for x in given if isinstance(x, Tensor) and x.requires_grad]

    def results(
        self, function: Callable[..., Any], dtype: torch.dtype, drawn_on: torch.device | None = None
    ) -> dict[str, Tensor]:
        """All outputs and gradients of `function` with the inputs in `dtype`, by name.

        drawn_on: the device that generates the output gradients; by default the outputs' own, because a CPU would need
        seconds for a card's.
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
        """A function that runs only the forward pass, on fixed inputs."""
        given, _ = self.inputs(dtype)
        return torch.no_grad()(lambda: function(*given, **self.keywords))

    def backward(self, function: Callable[..., Any], dtype: torch.dtype) -> Callable[[], Any]:
        """A function that runs only the backward pass, through one forward pass made by its first call.

        The forward pass is not made here because autograd runs backward on the stream of forward, which must be the
        stream that captures the call (tuning/clock.py; pytorch#164302).
        """
        given, leaves = self.inputs(dtype)
        passed = cache(lambda: self._passed(function, given))
        return lambda: torch.autograd.grad(passed()[0], leaves, passed()[1], retain_graph=True)

    def both(self, function: Callable[..., Any], dtype: torch.dtype) -> Callable[[], Any]:
        """A function that runs forward and backward, on fixed inputs."""
        given, leaves = self.inputs(dtype)

        def run() -> Any:
            outputs, seeds = self._passed(function, given)
            return torch.autograd.grad(outputs, leaves, seeds)

        return run

    def _passed(self, function: Callable[..., Any], given: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Differentiable outputs of a forward pass, and tensors of ones as their gradients."""
        smooth = [x for x in _several(function(*given, **self.keywords)) if x.requires_grad]
        return smooth, [torch.ones_like(x) for x in smooth]


def _several(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
