"""Triton kernels, one op per file, imported as albert_fast.kernels.

How to add a kernel, following add_layer_norm.py:

1. Write the plain op in albert_fast/ops/: the reference, and the implementation without a GPU.
2. Write kernels/NAME.py, in this order: docstring (equation, what is fused, source); the @triton.jit kernels, named
   after the op; the host functions as `torch.library.custom_op` with `register_fake`, and next to each fake its
   `@costs(...)`; the autograd formula under the main_grad rule; the public function, with the signature of the plain op
   and any leading dimensions (arguments.py).
3. If several launch configurations may win, take it from `candidates.chosen`, with the default as first candidate.
4. Write `calls(sizes, dtype, make)`, which yields a `Call` for each way that training calls the ops, and add NAME to
   KERNELS below. From that list the kernel is compiled and gated for sm_80, sm_90, sm_100 and gfx942 (python -m
   bench.codegen), counted against its costs, run through opcheck, tested past 2^31 elements, and run on a card and
   under compute-sanitizer (pytest -m gpu).
5. tests/kernels/test_NAME.py: error against the plain op in fp64, gradcheck, non-finite values, reruns, permuted rows.
6. bench/bench_NAME.py with one Case: eager torch, torch.compile, ours. It is found from KERNELS.
7. Add a field to `Ops` and a line to `kernel_ops` (albert_fast/ops/__init__.py).
"""

import os

# Triton 3.10 no longer fuses multiply-adds by default. Our instruction counts, and bitwise resume, assume fused ones.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

KERNELS = (
    "add_layer_norm",
    "embed_layer_norm",
    "gather_rows",
    "gelu_ffn",
    "gelu_layer_norm",
    "lamb",
    "linear_cross_entropy",
    "pack_gradients",
    "partial_sums",
)
