"""python -m bench.traffic [--json]: bytes moved by our kernels, compared with the minimum and with eager PyTorch.

Kernels are counted in the interpreter at small sizes; their traffic is linear in each size, so it extrapolates exactly
to the sizes of the table (a test counts further points). `bytes` excludes partial sums; `partial_bytes` is the size of
the partial sums, which are written and read once and should stay in L2. `least_bytes` counts inputs, outputs and saved
activations once each. Eager PyTorch is counted op by op on the meta device at full size.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from albert_fast.files import strict_json
from albert_fast.text_tables import number_table
from bench.counting import OpBytes, Traffic, counting  # import first: turns the interpreter on

# isort: split
from albert_fast.kernels import add_layer_norm, gelu, gelu_ffn
from albert_fast.kernels.partial_sums import sum_partials
from albert_fast.kernels.rows import chunk_rows
from bench.shapes import SHAPES, Shape

DIRECTIONS = ("forward", "backward")
DROPOUT = 0.1
LAYER_NORM_TOKENS = (8, 16)
FFN_SIZES = ((128, 256), (128, 256), (256, 512))  # tokens, hidden, intermediate: multiples of every tile


@dataclass
class Row:
    """One direction of one op at one shape. Under autocast, eager LayerNorm runs in fp32."""

    op: str
    direction: str
    shape: list[int]
    dtype: str
    bytes: int
    partial_bytes: int
    least_bytes: int
    eager_bytes: int
    eager_autocast_bytes: int | None
    epilogue_stores: float | None
    counted_at: list[list[int]]


def multilinear(
    count: Callable[..., dict[str, int]], corners: Sequence[tuple[int, int]], sizes: Sequence[int]
) -> dict[str, int]:
    """count(*sizes), extrapolated from the corners of a box; each of its values must be linear in each size."""
    totals = dict.fromkeys(DIRECTIONS, 0.0)
    for picks in product((0, 1), repeat=len(corners)):
        weight = prod(
            (size - low) / (high - low) if pick else (high - size) / (high - low)
            for pick, (low, high), size in zip(picks, corners, sizes, strict=True)
        )
        counted = count(*(corner[pick] for pick, corner in zip(picks, corners, strict=True)))
        totals = {direction: total + weight * counted[direction] for direction, total in totals.items()}
    assert all(total == round(total) for total in totals.values()), "the traffic of a kernel is not linear in a size"
    return {direction: round(total) for direction, total in totals.items()}


def _tensors(tokens: int, hidden: int, wide: int, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of one layer by name, uninitialized."""
    sizes = {
        "x": (tokens, hidden), "residual": (tokens, hidden), "grad": (tokens, hidden), "bias": (hidden,),
        "weight": (hidden,), "layer_norm_bias": (hidden,), "weight1": (wide, hidden), "bias1": (wide,),
        "weight2": (hidden, wide),
    }  # fmt: skip
    return {name: torch.empty(size, dtype=dtype, device=device) for name, size in sizes.items()}


@cache
def count_layer_norm(tokens: int, hidden: int, dtype: torch.dtype, dropout: float, pre: bool) -> dict[str, Traffic]:
    """Traffic of forward and backward."""
    t, key = _tensors(tokens, hidden, 1, dtype), torch.zeros(2, dtype=torch.int64)
    vectors = t["weight"], t["layer_norm_bias"]
    with counting() as forward, torch.no_grad():
        _, total, mean, rstd = add_layer_norm._forward(
            t["x"], t["bias"], t["residual"], *vectors, key, 1e-12, dropout, 0
        )
    with counting() as backward, torch.no_grad():
        more_grad = torch.empty_like(total) if pre else None
        *_, partials = add_layer_norm._backward(
            t["grad"], more_grad, total, mean, rstd, t["weight"], key, dropout, 0, "sum", None
        )
        sum_partials(partials)
    return {"forward": forward, "backward": backward}


def moved(traffic: Traffic) -> int:
    """Unique bytes read plus all bytes written, without partial sums."""
    partials = ("partial_ptr",)
    return traffic.total("read_bytes", without=partials) + traffic.total("written_bytes", without=partials)


def eager_layer_norm(tokens: int, hidden: int, dtype: torch.dtype, dropout: float, autocast: bool) -> dict[str, int]:
    """Bytes of dropout, residual add and LayerNorm; backward includes the gradient of the bias.

    Adding the bias is free: a linear layer adds it in the epilogue of its product.
    """
    t = {name: x.requires_grad_() for name, x in _tensors(tokens, hidden, 1, dtype, "meta").items()}
    with OpBytes() as forward:
        x = torch.native_dropout(t["x"], dropout, True)[0] if dropout else t["x"]  # what F.dropout runs on CUDA
        total = x + t["residual"]
        if autocast:
            weight, bias = (t[name].detach().float().requires_grad_() for name in ("weight", "layer_norm_bias"))
            y = F.layer_norm(total.float(), (hidden,), weight, bias).to(dtype)
        else:
            y = F.layer_norm(total, (hidden,), t["weight"], t["layer_norm_bias"])
    with OpBytes() as backward:
        inputs = [x for x in t.values() if x.requires_grad]
        grad_x = torch.autograd.grad(y, inputs, t["grad"].detach(), allow_unused=True)[0]
        grad_x.sum(0)
    return {"forward": forward.bytes, "backward": backward.bytes}


def layer_norm_rows(shape: Shape, dtype: torch.dtype, dropout: float, pre: bool) -> list[Row]:
    tokens, hidden, size = shape.tokens, shape.hidden_size, dtype.itemsize
    counted = multilinear(
        lambda n: {d: moved(t) for d, t in count_layer_norm(n, hidden, dtype, dropout, pre).items()},
        [LAYER_NORM_TOKENS], [tokens],
    )  # fmt: skip
    eager = eager_layer_norm(tokens, hidden, dtype, dropout, False)
    autocast = eager_layer_norm(tokens, hidden, dtype, dropout, True) if dtype != torch.float32 else None
    matrices = {"forward": 4, "backward": 3 + (dropout > 0) + pre}
    vectors = {"forward": 3 * hidden * size, "backward": hidden * size + 3 * hidden * 4}
    chunks = -(
        -tokens // chunk_rows("add_layer_norm_backward", torch.empty(tokens, hidden, dtype=dtype, device="meta"))
    )
    extra = {"forward": 0, "backward": 3 * tokens * hidden * size * pre}  # eager adds the two gradients of the sum
    return [
        Row(
            op=f"add_{'pre_' if pre else ''}layer_norm{'_dropout' if dropout else ''}",
            direction=direction,
            shape=[tokens, hidden],
            dtype=str(dtype).removeprefix("torch."),
            bytes=counted[direction],
            partial_bytes=chunks * 3 * hidden * 4 if direction == "backward" else 0,
            least_bytes=matrices[direction] * tokens * hidden * size + vectors[direction],
            eager_bytes=eager[direction] + extra[direction],
            eager_autocast_bytes=autocast[direction] + extra[direction] if autocast else None,
            epilogue_stores=None,
            counted_at=[[n, hidden] for n in LAYER_NORM_TOKENS],
        )
        for direction in DIRECTIONS
    ]


@cache
def count_ffn(tokens: int, hidden: int, wide: int, way: str) -> dict[str, tuple[int, int, int]]:
    """(bytes moved by kernels and products, bytes stored by kernels, minimum of the latter) by direction, in bf16."""
    t = _tensors(tokens, hidden, wide, torch.bfloat16)
    with counting() as kernels, OpBytes() as products, torch.no_grad():
        z, h = gelu_ffn._linear_gelu(t["x"], t["weight1"], t["bias1"], "gelu_new", way)
        _ = h @ t["weight2"].t()
    stored = kernels.total("written_bytes")
    forward = moved(kernels) + products.bytes, stored, h.nbytes if way == "library" else h.nbytes + z.nbytes
    with counting() as kernels, OpBytes() as products, torch.no_grad():
        grad_z, h, partials = gelu_ffn._backward._init_fn(t["grad"], t["weight2"], z, "gelu_new", way, None)
        _ = t["grad"].t() @ h, grad_z.t() @ t["x"], grad_z @ t["weight1"]
    stored = kernels.total("written_bytes", without=("partial_ptr",))
    with counting() as sums, torch.no_grad():
        total = sum_partials(partials)
    assert moved(sums) == total.nbytes
    return {"forward": forward, "backward": (moved(kernels) + products.bytes + total.nbytes, stored, 2 * h.nbytes)}


def eager_ffn(tokens: int, hidden: int, wide: int) -> dict[str, int]:
    t = _tensors(tokens, hidden, wide, torch.bfloat16, "meta")
    parameters = [t[name].requires_grad_() for name in ("x", "weight1", "bias1", "weight2")]
    with OpBytes() as forward:
        out = F.linear(F.gelu(F.linear(t["x"], t["weight1"], t["bias1"])), t["weight2"])
    with OpBytes() as backward:
        torch.autograd.grad(out, parameters, t["grad"])
    return {"forward": forward.bytes, "backward": backward.bytes}


def ffn_rows(shape: Shape, way: str) -> list[Row]:
    sizes = shape.tokens, shape.hidden_size, shape.intermediate_size
    narrow, weight, wide = shape.tokens * sizes[1], sizes[1] * sizes[2], shape.tokens * sizes[2]
    # Forward reads x, W1, b1 and writes z, h; reads h, W2 and writes out. Backward reads grad, W2, z and writes grad_z,
    # h, db1 (fp32); its products read grad, h and write dW2, read grad_z, x and write dW1, read grad_z, W1, write dx.
    least = {
        "forward": 2 * (narrow + weight + sizes[2] + 2 * wide) + 2 * (wide + weight + narrow),
        "backward": 2 * (narrow + weight + 3 * wide) + 4 * sizes[2]
        + 2 * (narrow + wide + weight) + 2 * (wide + narrow + weight) + 2 * (wide + weight + narrow),
    }  # fmt: skip
    eager = eager_ffn(*sizes)
    chunk = 128 if way != "library" else gelu.rows_per_chunk(sizes[0], sizes[2])
    counted = multilinear(lambda *at: {d: n for d, (n, *_) in count_ffn(*at, way).items()}, FFN_SIZES, sizes)
    largest = count_ffn(*(high for _, high in FFN_SIZES), way)
    return [
        Row(
            op=f"gelu_ffn_{way}",
            direction=direction,
            shape=list(sizes),
            dtype="bfloat16",
            bytes=counted[direction],
            partial_bytes=-(-sizes[0] // chunk) * sizes[2] * 4 if direction == "backward" else 0,
            least_bytes=least[direction],
            eager_bytes=eager[direction],
            eager_autocast_bytes=None,
            epilogue_stores=largest[direction][1] / largest[direction][2],
            counted_at=[list(corner) for corner in product(*FFN_SIZES)],
        )
        for direction in DIRECTIONS
    ]


def table() -> list[Row]:
    """All rows in printing order."""
    rows = []
    for shape in SHAPES:
        for dtype, pre, dropout in product((torch.bfloat16, torch.float32), (False, True), (0.0, DROPOUT)):
            rows += layer_norm_rows(shape, dtype, dropout, pre)
        for way in ("library", "pointer", "tma"):
            rows += ffn_rows(shape, way)
    return rows


def print_table(rows: list[Row]) -> None:
    headings = ("op", "direction", "shape", "dtype", "bytes", "/ least", "partials", "eager / ours", "autocast / ours")
    printed = number_table("Bytes moved, MB (interpreted at small sizes; linear in each size)", headings, 4)
    both: dict[tuple, list[Row]] = {}
    for row in rows:
        both.setdefault((row.op, tuple(row.shape), row.dtype), []).append(row)
    for (op, shape, dtype), pair in both.items():
        sums = {name: sum(getattr(row, name) for row in pair) for name in ("bytes", "least_bytes", "eager_bytes")}
        autocast = [row.eager_autocast_bytes for row in pair]
        lines = [(row.direction, asdict(row)) for row in pair]
        total = {**sums, "partial_bytes": pair[-1].partial_bytes, "eager_autocast_bytes": None}
        if None not in autocast:
            total["eager_autocast_bytes"] = sum(n for n in autocast if n is not None)
        for direction, values in [*lines, ("both", total)]:
            autocast_bytes = values["eager_autocast_bytes"]
            printed.add_row(
                op, direction, " x ".join(map(str, shape)), dtype, f"{values['bytes'] / 1e6:.1f}",
                f"{values['bytes'] / values['least_bytes']:.3f}", f"{values['partial_bytes'] / 1e6:.1f}",
                f"{values['eager_bytes'] / values['bytes']:.2f}",
                f"{autocast_bytes / values['bytes']:.2f}" if autocast_bytes else "",
            )  # fmt: skip
    Console(width=150).print(printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON list of rows and nothing else")
    arguments = parser.parse_args()
    rows = table()
    if arguments.json:
        print(strict_json([asdict(row) for row in rows], indent=1))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()
