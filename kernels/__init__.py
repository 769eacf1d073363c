"""Triton kernels, one op a file; imported as albert_fast.kernels.

How to add a kernel, by imitation of add_layer_norm.py:

1. Write the plain op in albert_fast/ops/: it is the truth, and what runs without a GPU.
2. kernels/NAME.py, in this order: docstring (equation, what is fused, source); the @triton.jit kernels, each named by
   its op; the host functions as `torch.library.custom_op` with `register_fake`; beside each fake `@costs(...)`, what it
   moves; `register_autograd` under the main_grad rule; the public function, of the plain op's signature, for
   any leading dimensions (arguments.py).
3. Its launch options through `candidates.chosen`, where there is more than one that may win: the default first.
4. `calls(sizes, dtype, make)`: yields a `Call` for each way in which a run calls the ops. Add NAME to KERNELS below.
   From there it is found: compiled for sm_80, sm_90, sm_100 and gfx942 and gated (python -m bench.codegen), counted
   against its costs, run through opcheck, exercised past 2^31 elements, and run on a card and under its sanitizer
   (pytest -m gpu).
5. tests/kernels/test_NAME.py: the plain op in fp64 within gates, gradcheck, non-finite values, reruns, permuted rows.
6. bench/bench_NAME.py with one Case: eager torch, torch.compile, ours. It is found from KERNELS.
7. Its field in `Ops` and its line in `kernel_ops` (albert_fast/ops/__init__.py).
"""

import os

# Triton 3.10 leaves multiply-adds unfused unless it is told; instructions, and the bits of a run that goes on, are of
# fused ones.
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
