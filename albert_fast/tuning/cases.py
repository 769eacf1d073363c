"""Inputs on which an op is checked and timed: each op of `Ops` at the sizes of a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from albert_fast.kernels.candidates import Problem


@dataclass(frozen=True)
class Case:
    """One call of an op: its positional arguments, of which the float tensors but `fixed` are differentiated."""

    op: str
    arguments: tuple[Any, ...]
    fixed: tuple[int, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)

    def on(self, device: torch.device) -> Case:
        """The same call on another device."""
        moved = tuple(x.to(device) if isinstance(x, Tensor) else x for x in self.arguments)
        return replace(
            self,
            arguments=moved,
            keywords={k: x.to(device) if isinstance(x, Tensor) else x for k, x in self.keywords.items()},
        )

    def inputs(self, dtype: torch.dtype) -> tuple[list[Any], list[Tensor]]:
        """The arguments, in `dtype`, and those of them that gradients are asked of."""
        given = list(self.arguments)
        for i, value in enumerate(given):
            if isinstance(value, Tensor) and value.is_floating_point() and i not in self.fixed:
                given[i] = value.detach().to(dtype).requires_grad_()
        return given, [x for x in given if isinstance(x, Tensor) and x.requires_grad]

    def results(self, function: Callable[..., Any], dtype: torch.dtype) -> dict[str, Tensor]:
        """Every output and every gradient of `function` with the inputs in `dtype`, by name."""
        given, leaves = self.inputs(dtype)
        outputs = function(*given, **self.keywords)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        smooth = [x for x in outputs if x.requires_grad]
        generator = torch.Generator().manual_seed(1)
        seeds = [torch.randn(x.shape, generator=generator).to(x) for x in smooth]
        gradients = torch.autograd.grad(smooth, leaves, seeds)
        found = {f"output {i}": x.detach() for i, x in enumerate(outputs)}
        return found | {f"gradient {i}": x for i, x in enumerate(gradients)}

    def forward(self, function: Callable[..., Any], dtype: torch.dtype) -> Callable[[], Any]:
        """A call of the forward pass alone, on inputs that stay where they are."""
        given, _ = self.inputs(dtype)

        def run() -> Any:
            with torch.no_grad():
                return function(*given, **self.keywords)

        return run

    def backward(self, function: Callable[..., Any], dtype: torch.dtype) -> Callable[[], Any]:
        """A call of the backward pass alone, over one forward pass that is kept."""
        given, leaves = self.inputs(dtype)
        outputs = function(*given, **self.keywords)
        smooth = [x for x in (outputs if isinstance(outputs, tuple) else (outputs,)) if x.requires_grad]
        seeds = [torch.ones_like(x) for x in smooth]
        return lambda: torch.autograd.grad(smooth, leaves, seeds, retain_graph=True)


class Maker:
    """Makes the tensors of a case: standard normal numbers rounded to `dtype`, the same on every device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int = 0):
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self.generator) * scale).to(self.device, self.dtype)

    def integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator).int().to(self.device)

    def key(self) -> Tensor:
        return torch.tensor([7, 3], device=self.device)


def _layer_norm(op: str, make: Maker, rows: int, columns: int, dropout: float, **_: int) -> Case:
    inputs = (make.normal(rows, columns), make.normal(columns), make.normal(rows, columns),
              1 + make.normal(columns, scale=0.1), make.normal(columns))  # fmt: skip
    return Case(op, inputs, keywords=dict(dropout=dropout, key=make.key(), site=3))


def _embeddings(make: Maker, rows: int, columns: int, dropout: float) -> Case:
    ids = make.integers(512, rows), make.integers(2, rows)
    parameters = (make.normal(512, columns), make.normal(2, columns),
                  1 + make.normal(columns, scale=0.1), make.normal(columns))  # fmt: skip
    arguments = (make.normal(rows, columns), *ids, *parameters)
    return Case("embed_layer_norm", arguments, keywords=dict(dropout=dropout, key=make.key(), site=3))


def _feed_forward(make: Maker, rows: int, columns: int, depth: int, activation: str) -> Case:
    weights = make.normal(columns, depth, scale=depth**-0.5), make.normal(depth, columns, scale=columns**-0.5)
    arguments = (make.normal(rows, depth), weights[0], make.normal(columns, scale=0.1), weights[1])
    return Case("gelu_ffn", arguments, keywords=dict(activation=activation))


def _transform(make: Maker, rows: int, columns: int, activation: str) -> Case:
    """The masked-word head's, of a model whose embeddings are as wide as its layers."""
    product = make.normal(rows, columns), make.normal(columns, columns, scale=columns**-0.5)
    vectors = make.normal(columns, scale=0.1), 1 + make.normal(columns, scale=0.1), make.normal(columns)
    return Case("linear_gelu_layer_norm", (*product, *vectors), keywords=dict(activation=activation))


def _cross_entropy(make: Maker, rows: int, columns: int, depth: int) -> Case:
    weights = (torch.arange(rows, device=make.device) % 7 > 0).float()  # slots without a prediction weigh nothing
    return Case(
        "linear_cross_entropy",
        (make.normal(rows, depth), make.normal(columns, depth, scale=depth**-0.5), make.normal(columns, scale=0.1),
         make.integers(columns, rows), weights),
        fixed=(4,),
    )  # fmt: skip


def cases(problem: Problem, rows: int, make: Maker) -> list[Case]:
    """The calls that show whether `problem` is solved rightly with so many rows; none for an op unknown here.

    LayerNorms with and without dropout and in both places; GELU by erf and by tanh. The first is what is timed.
    """
    op, columns, depth = problem.op.removesuffix("_forward").removesuffix("_backward"), problem.columns, problem.depth
    if op == "add_layer_norm":
        names = ("add_post_layer_norm", "add_pre_layer_norm")
        return [_layer_norm(name, make, rows, columns, dropout) for dropout in (0.0, 0.1) for name in names]
    if op == "embed_layer_norm":
        return [_embeddings(make, rows, columns, dropout) for dropout in (0.0, 0.1)]
    if op == "gelu_ffn":
        return [_feed_forward(make, rows, columns, depth, activation) for activation in ("gelu", "gelu_new")]
    if op == "gelu_layer_norm":
        return [_transform(make, rows, columns, activation) for activation in ("gelu", "gelu_new")]
    return [_cross_entropy(make, rows, columns, depth)] if op == "linear_cross_entropy" else []


def attention_case(make: Maker, heads: int, head_size: int) -> Case:
    """Attention over sequences of uneven length, empty ones among them."""
    edges = torch.tensor([0, 37, 37, 38, 120, 193, 193], dtype=torch.int32, device=make.device)
    return Case("varlen_attention", (make.normal(193, 3, heads, head_size), edges, 82))


def work(problem: Problem) -> tuple[int, int]:
    """The bytes that what is timed of `problem` must move, and the FLOPs of its products (0 where it has none)."""
    rows, columns, depth = problem.rows_to, problem.columns, problem.depth
    if problem.op.startswith("gelu_ffn"):
        return 0, (8 if problem.op.endswith("_backward") else 4) * rows * columns * depth
    if problem.op.startswith("gelu_layer_norm"):
        return 0, (4 if problem.op.endswith("_backward") else 2) * rows * columns * columns
    if problem.op == "linear_cross_entropy":
        return 0, 2 * rows * columns * depth
    forward = 2 if problem.op.startswith("embed") else 4  # words in, states out; two in, two out
    passes = 3 if problem.op.endswith("_backward") else forward  # gradient and sum or words in, gradient out
    return passes * rows * columns * getattr(torch, problem.dtype).itemsize, 0
