"""Cases for checking and timing the candidates of a problem: each op of `Ops` at the problem's sizes."""

import itertools
from functools import partial

import torch
from torch import Tensor

from albert_fast.attention import Queries
from albert_fast.kernels.candidates import Problem
from albert_fast.kernels.main_grad import accumulate_product
from albert_fast.ops import plain_attention
from albert_fast.tuning.case import Case
from albert_fast.tuning.update_case import UpdateCase

ATTENTION_ROWS = 16384  # the reference saves all scores: 2.1 GB in fp32 at 64 heads and sequences of 512


class Maker:
    """Makes the tensors of a case: standard normal, rounded to `dtype`, reproducible on each device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int = 0):
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self.generator, device=self.device) * scale).to(self.dtype)

    def integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator, device=self.device).int()

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
    """Transform of the masked-LM head, with embedding_size == hidden_size."""
    product = make.normal(rows, columns), make.normal(columns, columns, scale=columns**-0.5)
    vectors = make.normal(columns, scale=0.1), 1 + make.normal(columns, scale=0.1), make.normal(columns)
    return Case("linear_gelu_layer_norm", (*product, *vectors), keywords=dict(activation=activation))


def _cross_entropy(make: Maker, rows: int, columns: int, depth: int) -> Case:
    weights = (torch.arange(rows, device=make.device) % 7 > 0).float()  # slots without a prediction have weight 0
    return Case(
        "linear_cross_entropy",
        (make.normal(rows, depth), make.normal(columns, depth, scale=depth**-0.5), make.normal(columns, scale=0.1),
         make.integers(columns, rows), weights),
        fixed=(4,),
    )  # fmt: skip


def _gather_rows(make: Maker, rows: int, columns: int) -> Case:
    """A sixth of the rows, the first one twice, and two unused entries."""
    places = torch.tensor([0, *range(0, rows, 6), rows, rows], dtype=torch.int32, device=make.device)
    tokens = places.clamp(max=max(rows - 1, 0))
    return Case("gather_rows", (make.normal(rows, columns), tokens, places), plain=_rows_of_tokens)


def _rows_of_tokens(x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """The plain op with zero gradients for unused entries, as it requires."""
    rows = x[tokens.long()]
    return torch.where((places < len(x))[:, None], rows, rows.detach())


def cases(problem: Problem, rows: int, make: Maker) -> list[Case]:
    """Calls that check the candidates of `problem` on `rows` rows; empty for unknown ops.

    They cover LayerNorms with and without dropout, pre-LN and post-LN; GELU by erf and by tanh; LAMB and AdamW. The
    first is also timed.
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
    if op in ("attention", "attention_of_some"):
        heads, longest = columns // depth, problem.length_to
        sequences = full_sequences(min(rows, ATTENTION_ROWS), longest), mixed_sequences(longest)
        return [_attention(make, heads, depth, longest, found, op != "attention") for found in sequences]
    if op == "weight_gradient":
        return [_weight_gradient(make, rows, columns, depth)]
    if op == "pack_gradients":
        return [_pack_gradients(make, rows, columns, padding, count) for padding, count in ((0, 3), (8, 3), (0, 2))]
    if op == "gather_rows":
        return [_gather_rows(make, rows, columns)]
    if op == "lamb":
        return [UpdateCase("fuses_update", (kind, rows, columns, make.device)) for kind in ("lamb", "adamw")]
    return [_cross_entropy(make, rows, columns, depth)] if op == "linear_cross_entropy" else []


def full_sequences(rows: int, longest: int) -> list[int]:
    """cu_seqlens of full sequences followed by empty ones, one slot per 32 tokens as in the loader's batches."""
    full = [*range(0, rows, longest), rows]
    return full + [rows] * max(0, rows // 32 + 1 - len(full))


def mixed_sequences(longest: int) -> list[int]:
    """cu_seqlens of sequences of 0 to `longest` tokens, with empty ones first, in between and last."""
    lengths = [0, longest // 2 + 1, 0, 1, longest, longest // 3 + 1, 0]
    return [0, *itertools.accumulate(lengths)]


def _attention(make: Maker, heads: int, size: int, longest: int, ends: list[int], of_some: bool) -> Case:
    """Attention for all tokens, or for every sixth token as query and two queries outside all sequences."""
    tokens, cu_seqlens = ends[-1], torch.tensor(ends, dtype=torch.int32, device=make.device)
    qkv = make.normal(tokens, 2 if of_some else 3, heads, size)
    if not of_some:
        return Case("varlen_attention", (qkv, cu_seqlens, longest), plain=plain_attention, scatter=4.0)
    asked = torch.tensor([*range(0, tokens, 6), tokens, tokens], device=make.device)
    own = Queries.pack(asked, cu_seqlens, tokens).cu_seqlens
    queries = make.normal(len(asked), heads, size)
    return Case("varlen_attention", (qkv, cu_seqlens, longest, queries, own), plain=plain_attention, scatter=4.0)


def _weight_gradient(make: Maker, rows: int, columns: int, depth: int) -> Case:
    """Low-precision operands with an fp32 sum, so that the check detects intermediate rounding."""
    total = torch.randn(depth, columns, generator=make.generator, device=make.device)
    operands = make.normal(rows, depth), make.normal(rows, columns, scale=max(rows, 1) ** -0.5)
    return Case(
        "weight_gradient", (total, *operands), fixed=(0,), function=_accumulated, plain=_accumulated_plain, slack=1e-4
    )


def _accumulated(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    with torch.no_grad():
        accumulate_product(total, a, b)
        return total


def _accumulated_plain(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    acc_dtype = torch.promote_types(total.dtype, a.dtype)
    return total.to(acc_dtype) + a.detach().to(acc_dtype).t() @ b.detach().to(acc_dtype)


def _pack_gradients(make: Maker, rows: int, columns: int, padding: int, count: int) -> Case:
    gradients = tuple(make.normal(rows, 1, columns + padding) for _ in range(count))
    return Case("pack_gradients", gradients, function=partial(_packed, columns), plain=partial(_packed_plain, columns))


def _packed(size: int, *gradients: Tensor) -> tuple[Tensor, Tensor]:
    from albert_fast.kernels.pack_gradients import pack_gradients  # here, so that machines without a GPU need no Triton

    packed, sums = pack_gradients([x.detach() for x in gradients], size)
    return packed, sums.sum((0, 1))


def _packed_plain(size: int, *gradients: Tensor) -> tuple[Tensor, Tensor]:
    packed = torch.stack([x.detach()[..., :size] for x in gradients], 1)
    return packed, packed.flatten(1).sum(0, dtype=torch.promote_types(packed.dtype, torch.float32))


def work(problem: Problem) -> tuple[int, int]:
    """Minimum bytes and FLOPs (0 without products) of the timed part of `problem`."""
    rows, columns, depth = problem.rows_to, problem.columns, problem.depth
    if problem.op.startswith("gelu_ffn"):
        return 0, (8 if problem.op.endswith("_backward") else 4) * rows * columns * depth
    if problem.op.startswith("gelu_layer_norm"):
        return 0, (4 if problem.op.endswith("_backward") else 2) * rows * columns * columns
    if problem.op in ("linear_cross_entropy", "weight_gradient"):
        return 0, (6 if problem.op == "linear_cross_entropy" else 2) * rows * columns * depth
    if problem.op.startswith("attention"):  # two products forward and five backward, for all queries or every sixth
        asking = 6 if problem.op.endswith("of_some") else 1
        return 0, 14 * min(rows, ATTENTION_ROWS) * problem.length_to * columns // asking
    if problem.op == "pack_gradients":
        return 6 * rows * columns * getattr(torch, problem.dtype).itemsize, 0
    if problem.op == "lamb":  # 12 accesses to gradient, moments and weights, and one to bf16 weights
        return 50 * rows * columns, 0
    if problem.op.startswith("gather_rows"):
        return 7 * rows * columns * getattr(torch, problem.dtype).itemsize // 6, 0
    forward = 2 if problem.op.startswith("embed") else 4  # words in, states out; two in, two out
    passes = 3 if problem.op.endswith("_backward") else forward  # gradient and sum or words in, gradient out
    return passes * rows * columns * getattr(torch, problem.dtype).itemsize, 0
