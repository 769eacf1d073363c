"""Triton's interpreter with correct bf16.

The interpreter stores bf16 as uint16 bit patterns. It truncates fp32 to bf16 where hardware rounds to nearest even, and
silently computes on the bit patterns. Here casts round, `tl.dot` widens its operands, and any other arithmetic on bf16
raises an error, since our kernels widen first. In addition, device functions (also `tl.sum`) patch Triton's language
once per launch instead of once per call, which makes tests several times faster.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, TensorHandle


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bit patterns of bf16, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0 | ((bits >> 16) & 0x8000), rounded).astype(np.uint16)


def _cast(self, source, target_type, *_):
    source_type, target = source.dtype.scalar, target_type.scalar
    values = bfloat16_to_float32(source.data) if source_type == tl.bfloat16 else source.data
    if target == tl.bfloat16:
        return TensorHandle(float32_to_bfloat16(values.astype(np.float32)), target)
    return _original[InterpreterBuilder, "cast_impl"](self, TensorHandle(values, tl.float32), target_type)


def _cast_impl(self, source, target_type):
    if tl.bfloat16 in (source.dtype.scalar, target_type.scalar) and source.dtype.scalar != target_type.scalar:
        return _cast(self, source, target_type)
    return _original[InterpreterBuilder, "cast_impl"](self, source, target_type)


def _fp_to_fp(self, source, target_type, rounding_mode):
    if tl.bfloat16 in (source.dtype.scalar, target_type.scalar):
        return _cast_impl(self, source, target_type)
    return _original[InterpreterBuilder, "create_fp_to_fp"](self, source, target_type, rounding_mode)


def _dot(self, a, b, *arguments):
    a, b = (
        TensorHandle(bfloat16_to_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)
    )
    return _original[InterpreterBuilder, "create_dot"](self, a, b, *arguments)


def _refusing(name):
    def operate(self, first, *others):
        if first.dtype.scalar == tl.bfloat16:
            raise TypeError(
                "arithmetic on bf16: the interpreter computes on its bit patterns; use .to(tl.float32) first"
            )
        return _original[InterpreterBuilder, name](self, first, *others)

    return operate


_patched: set = set()  # device functions for which the current launch has patched the language


def _launch(self, *arguments, **keywords):
    _patched.clear()
    return _original[GridExecutor, "__call__"](self, *arguments, **keywords)


def _call(self, *arguments, **keywords):
    if self.fn not in _patched:
        interpreter._patch_lang(self.fn)
        _patched.add(self.fn)
    return self.rewrite()(*arguments, **keywords)


def _patch_lang_tensor(tensor, scope):
    _original[interpreter, "_patch_lang_tensor"](tensor, scope)
    # Triton 3.6 calls int() on an array of one element, which NumPy 2.4 rejects.
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


_replacements = {
    (interpreter, "_patch_lang_tensor"): _patch_lang_tensor,
    (InterpreterBuilder, "cast_impl"): _cast_impl,
    (InterpreterBuilder, "create_fp_to_fp"): _fp_to_fp,
    (InterpreterBuilder, "create_dot"): _dot,
    (InterpreterBuilder, "binary_op"): _refusing("binary_op"),
    (InterpreterBuilder, "unary_op"): _refusing("unary_op"),
    (GridExecutor, "__call__"): _launch,
    (InterpretedFunction, "__call__"): _call,
}
_original = {(owner, name): getattr(owner, name) for owner, name in _replacements}


@contextmanager
def corrected_interpreter() -> Iterator[None]:
    """In the block, interpreted kernels handle bf16 as hardware does."""
    with ExitStack() as patches:
        for (owner, name), function in _replacements.items():
            patches.enter_context(patch.object(owner, name, function))
        yield
