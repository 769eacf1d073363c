"""The highest addresses that a kernel's last program touches in huge tensors, recorded without allocating them.

Only the first and last iterations of a loop run: addresses grow with the index, and an iteration takes seconds.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle
from triton.tools.tensor_descriptor import TensorDescriptor

SPACING = 44  # log2 of the distance between the fake addresses of two arguments


@dataclass
class Stub:
    """A tensor with an address but no memory; `last` is the highest byte offset that was accessed."""

    kernel: str
    name: str
    tensor: torch.Tensor
    base: int
    last: int = -1

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def data_ptr(self) -> int:
        return self.base


def _ends(*bounds: Any) -> list[int]:
    """The first and last two indices of a range, whose bounds may be tensors of the interpreter."""
    every = range(*(value.__index__() for value in bounds))
    return [*every[:2], *every[max(2, len(every) - 2) :]]


@contextmanager
def reaching() -> Iterator[list[Stub]]:
    """Yields the stubs for the meta tensors of each launch in the block; only the last program of a grid runs."""
    stubs: list[Stub] = []

    def launch(self: Any, *arguments: Any, **keywords: Any) -> None:
        named = dict(zip(self.arg_names, arguments, strict=False))
        named |= {k: v for k, v in keywords.items() if k in self.arg_names}

        def stub(name: str, value: Any) -> Any:
            if isinstance(value, TensorDescriptor):
                base = stub(name, value.base)
                return TensorDescriptor(base, list(value.shape), list(value.strides), list(value.block_shape))
            if not isinstance(value, torch.Tensor):
                return value
            stubs.append(Stub(self.fn.__name__, name, value, (len(stubs) + 1) << SPACING))
            return stubs[-1]

        scope = interpreter._patch_lang(self.fn)
        try:
            cvt = interpreter._implicit_cvt
            values = {n: stub(n, v) for n, v in named.items()}
            values = {n: v if n in self.constexprs else cvt(v) for n, v in values.items()}
            grid = (*self.grid, 1, 1)[:3]
            interpreter.interpreter_builder.set_grid_dim(*grid)
            interpreter.interpreter_builder.set_grid_idx(*(size - 1 for size in grid))
            with _disable_current_modes(), patch.dict(self.fn.__globals__, {"range": _ends}):
                self.fn(**values)
        finally:
            scope.restore()

    def note(pointers: TensorHandle, mask: TensorHandle) -> None:
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        if addresses.size:
            high, low = int(addresses.max()), int(addresses.min())
            place = high >> SPACING
            assert place == low >> SPACING and 0 < place <= len(stubs), "an offset overflowed"  # noqa: PT018
            stub = stubs[place - 1]
            stub.last = max(stub.last, high - stub.base)

    def load(self: Any, pointers: TensorHandle, mask: TensorHandle, *_: Any, **__: Any) -> TensorHandle:
        note(pointers, mask)
        element = pointers.get_element_ty()
        return TensorHandle(np.zeros(pointers.data.shape, interpreter._get_np_dtype(element)), element)

    def store(self: Any, pointers: TensorHandle, value: TensorHandle, mask: TensorHandle, *_: Any, **__: Any) -> None:
        note(pointers, mask)

    def dot(self: Any, a: TensorHandle, b: TensorHandle, total: TensorHandle, *_: Any, **__: Any) -> TensorHandle:
        return total

    replaced = {
        (GridExecutor, "__call__"): launch,
        (InterpreterBuilder, "create_masked_load"): load,
        (InterpreterBuilder, "create_masked_store"): store,
        (InterpreterBuilder, "create_dot"): dot,
    }
    with ExitStack() as patches:
        for (owner, name), function in replaced.items():
            patches.enter_context(patch.object(owner, name, function))
        yield stubs
