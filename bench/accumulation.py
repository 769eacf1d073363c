"""Rounding error in the gradient of a shared weight: `python -m bench.accumulation [--json]`.

The gradient of a weight used L times is the sum over uses of grad_l.T @ x_l. Every method gets the same bf16 operands;
the reference is the sum in float64. Ours accumulates the products in fp32 (albert_fast.ops). Autograd adds bf16
tensors, also under autocast, because its cache gives all L uses the same bf16 cast of the weight.
"""

import argparse

import torch
from rich.console import Console
from torch import Tensor

from albert_fast.files import strict_json
from albert_fast.ops import linear
from albert_fast.text_tables import number_table

USES, TOKENS, WIDTH = (1, 12, 24), (1024, 16384), 192


def relative_error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm())


def errors(uses: int, tokens: int, width: int = WIDTH) -> dict[str, float]:
    """Relative L2 error of the accumulated gradient [width, width] for each method."""
    generator = torch.Generator().manual_seed(0)
    shape = (uses, tokens, width)
    inputs, grads = (torch.randn(shape, generator=generator).bfloat16() for _ in range(2))
    truth = sum(g.double().t() @ x.double() for g, x in zip(grads, inputs, strict=True))

    ours = torch.nn.Parameter(torch.zeros(width, width, dtype=torch.bfloat16))
    ours.main_grad = torch.zeros(width, width)  # type: ignore[attr-defined]
    ours.requires_grad_()
    plain = torch.nn.Parameter(torch.zeros(width, width, dtype=torch.bfloat16))
    master = torch.nn.Parameter(torch.zeros(width, width))
    torch.autograd.backward([linear(x, ours) for x in inputs], list(grads))
    torch.autograd.backward([torch.nn.functional.linear(x, plain) for x in inputs], list(grads))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [torch.nn.functional.linear(x, master) for x in inputs]
    torch.autograd.backward(outputs, list(grads))
    return {
        "fp32_main_grad": relative_error(ours.main_grad, truth),  # type: ignore[attr-defined]
        "autograd_bf16": relative_error(plain.grad, truth),  # type: ignore[arg-type]
        "autograd_autocast": relative_error(master.grad, truth),  # type: ignore[arg-type]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    rows = [{"uses": uses, "tokens": tokens, **errors(uses, tokens)} for tokens in TOKENS for uses in USES]
    if options.json:
        print(strict_json({"rows": rows}, indent=2))
        return
    title = "Relative L2 error of a shared weight's gradient against float64, bf16 operands, CPU"
    columns = ("tokens", "uses L", "fp32 main_grad (ours)", "autograd, bf16 weight", "autograd, autocast")
    table = number_table(title, columns, text_columns=0)
    for row in rows:
        values = (row[key] for key in ("fp32_main_grad", "autograd_bf16", "autograd_autocast"))
        table.add_row(f"{row['tokens']:,}", str(row["uses"]), *(f"{value:.1e}" for value in values))
    Console().print(table)


if __name__ == "__main__":
    main()
