"""Triton's interpreter with bf16 as a GPU has it.

The interpreter keeps bf16 as the uint16 of its bits. It truncates fp32 -> bf16 where hardware rounds to nearest even,
and computes on the bits themselves: silently wrong. Here casts round, `tl.dot` widens its operands, and any other
arithmetic on bf16 is refused, since our kernels widen first. And a device function (also `tl.sum`) patches Triton's
language once a launch instead of once a call, which makes tests several times faster.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, TensorHandle


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits of bf16, rounded to nearest even; NaN stays a NaN."""
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
            raise TypeError("arithmetic on bf16: the interpreter would work on its bits; use .to(tl.float32) first")
        return _original[InterpreterBuilder, name](self, first, *others)

    return operate


_patched: set = set()  # the device functions for which this launch has patched the language


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
    # Triton 3.6 writes int(array of one element), which NumPy 2.4 refuses.
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
    """Within it, interpreted kernels handle bf16 as hardware does."""
    before = {(owner, name): getattr(owner, name) for owner, name in _replacements}
    for (owner, name), function in _replacements.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name), function in before.items():
            setattr(owner, name, function)
