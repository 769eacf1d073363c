"""What the public functions take: leading dimensions, and no CPU tensor where kernels are compiled."""

import os
import subprocess
import sys

import pytest
import torch
from support.gates import random

from albert_fast import ops
from albert_fast.kernels.add_layer_norm import add_layer_norm, add_post_layer_norm, add_pre_layer_norm
from albert_fast.kernels.arguments import from_rows, to_rows
from albert_fast.kernels.embed_layer_norm import embed_layer_norm
from albert_fast.kernels.gelu_ffn import gelu_ffn
from albert_fast.kernels.gelu_layer_norm import linear_gelu_layer_norm
from albert_fast.kernels.linear_cross_entropy import linear_cross_entropy

H, F = 8, 12  # hidden and feed-forward; the 9 words of the vocabulary are also the positions
HIDDEN, VECTORS = random(6, H, seed=0), [random(H, seed=seed) for seed in (1, 2, 3)]
WIDE = [random(F, seed=seed) for seed in (9, 10, 11)]
RESIDUAL, UP, DOWN = random(6, H, seed=4), random(F, H, seed=5), random(H, F, seed=6)
TABLE, WORD_BIAS, IDS = random(9, H, seed=7), random(9, seed=8), torch.arange(6, dtype=torch.int32)
DROPOUT = {"dropout": 0.5, "key": torch.tensor([1234, 5]), "site": 3}

# For each function its tensors of 6 rows, which get other leading dimensions, and the call that adds its parameters.
CASES = {
    add_layer_norm: ([HIDDEN, RESIDUAL], lambda op, x, r: op(x, VECTORS[0], r, *VECTORS[1:], **DROPOUT)),
    add_pre_layer_norm: ([HIDDEN, RESIDUAL], lambda op, x, r: op(x, VECTORS[0], r, *VECTORS[1:], **DROPOUT)),
    add_post_layer_norm: ([HIDDEN, RESIDUAL], lambda op, x, r: op(x, VECTORS[0], r, *VECTORS[1:], **DROPOUT)),
    embed_layer_norm: (
        [HIDDEN, IDS, IDS % 2],
        lambda op, x, positions, types: op(x, positions, types, TABLE, TABLE[:2], *VECTORS[1:], **DROPOUT),
    ),
    gelu_ffn: ([HIDDEN], lambda op, x: op(x, UP, WIDE[0], DOWN)),
    linear_gelu_layer_norm: ([HIDDEN], lambda op, x: op(x, UP, *WIDE)),
    linear_cross_entropy: ([HIDDEN, IDS, IDS.float()], lambda op, x, t, w: op(x, TABLE, WORD_BIAS, t, w)),
}


def results(op, tensors, call):
    """The outputs, and the gradients of the tensors that have one."""
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    made = call(op, *leaves)
    made = made if isinstance(made, tuple) else (made,)
    sum((y * (y.detach() + i)).sum() for i, y in enumerate(made)).backward()
    return [y.detach() for y in made], [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("op", CASES, ids=lambda op: op.__name__)
@pytest.mark.parametrize("leading", [(2, 3), (3, 1, 2), "strided"], ids=str)
@pytest.mark.parametrize("by", ["kernel", "plain"])
def test_leading_dimensions_are_rows(op, leading, by):
    tensors, call = CASES[op]
    op = op if by == "kernel" else getattr(ops, op.__name__)
    flat, flat_grads = results(op, tensors, call)
    if leading == "strided":  # [2, 3] whose rows lie in memory in another order
        shaped = [t.view(2, 3, *t.shape[1:]).transpose(0, 1).contiguous().transpose(0, 1) for t in tensors]
    else:
        shaped = [t.view(*leading, *t.shape[1:]) for t in tensors]
    made, grads = results(op, shaped, call)
    for y, same in zip(made, flat, strict=True):
        assert y.shape == (shaped[0].shape[:-1] + same.shape[1:] if same.dim() else ())
        assert torch.equal(y.reshape(same.shape), same)
    for grad, same in zip(grads, flat_grads, strict=True):
        assert grad.shape == shaped[0].shape
        assert torch.equal(grad.reshape(same.shape), same)


def test_contiguous_rows_are_not_copied():
    x = HIDDEN.view(2, 3, H)
    assert to_rows(HIDDEN) is HIDDEN
    assert to_rows(x).data_ptr() == from_rows(HIDDEN, x).data_ptr() == HIDDEN.data_ptr()


def test_one_row_needs_no_leading_dimension():
    tensors, call = CASES[add_layer_norm]
    assert torch.equal(
        call(add_layer_norm, *(t[0] for t in tensors)), call(add_layer_norm, *(t[:1] for t in tensors))[0]
    )


def test_cpu_tensors_are_refused_in_a_sentence_where_kernels_are_compiled():
    """In one process without TRITON_INTERPRET; meta and fake tensors, which run no kernel, still pass."""
    code = """
import test_arguments as cases, torch
from torch._subclasses.fake_tensor import FakeTensorMode

for op, (tensors, call) in cases.CASES.items():
    try:
        call(op, *tensors)
    except ValueError as error:
        print(error)
x = cases.HIDDEN.to("meta")
vectors = [v.to("meta") for v in cases.VECTORS]
print(cases.add_layer_norm(x, vectors[0], x, *vectors[1:]).shape)
with FakeTensorMode() as mode:
    x, *vectors = map(mode.from_tensor, (cases.HIDDEN, *cases.VECTORS))
    print(cases.add_layer_norm(x, vectors[0], x, *vectors[1:]).shape)
"""
    here = os.path.dirname(__file__)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([here, os.path.dirname(here)])
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    *sentences, meta, fake = process.stdout.splitlines()
    for op, sentence in zip(CASES, sentences, strict=True):
        assert f"{op.__name__} needs a CUDA tensor" in sentence
        assert f"albert_fast.ops.{op.__name__} " in sentence
        assert "TRITON_INTERPRET=1 before importing" in sentence
    assert meta == fake == "torch.Size([6, 8])"
