"""Counts the bytes that kernels and PyTorch ops move, without a GPU.

Kernels run in Triton's interpreter, which records every address they load or store: unique bytes read, bytes written,
elements not written exactly once, out-of-bounds addresses and atomics. No data is moved, since no address depends on
data; uninitialized memory suffices. PyTorch ops run on the meta device and count each input and output once.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, TensorHandle

from albert_fast.kernels.cost import size_of
from albert_fast.measure.costs import is_free


@dataclass
class Argument:
    """Accesses of one launch to one argument: `read` is a flag and `written` a count per element."""

    kernel: str
    name: str
    tensor: torch.Tensor
    read: np.ndarray
    written: np.ndarray

    @property
    def read_bytes(self) -> int:
        """Bytes read at least once: the traffic of the launch with a perfect cache."""
        return int(self.read.sum()) * self.tensor.element_size()

    @property
    def written_bytes(self) -> int:
        """Bytes stored, repeated stores included."""
        return int(self.written.sum()) * self.tensor.element_size()


@dataclass
class Traffic:
    """The accesses of all launches inside `counting`, per argument."""

    arguments: list[Argument] = field(default_factory=list)
    out_of_bounds: int = 0
    atomics: int = 0
    _current: list[Argument] = field(default_factory=list)

    def begin(self, kernel: str, named: dict) -> None:
        self._current = []
        for name, value in named.items():
            tensor = getattr(value, "base", value)
            known = [a.tensor.data_ptr() for a in self._current]
            if isinstance(tensor, torch.Tensor) and tensor.numel() and tensor.data_ptr() not in known:
                assert tensor.is_contiguous(), f"{kernel}: {name} is not contiguous"
                shape = tensor.numel()
                self._current.append(Argument(kernel, name, tensor, np.zeros(shape, bool), np.zeros(shape, np.uint8)))
        self.arguments += self._current

    def note(self, addresses: np.ndarray, mask: np.ndarray, store: bool) -> None:
        addresses = addresses[np.broadcast_to(mask, addresses.shape)]
        if not addresses.size:
            return
        low, high = int(addresses.min()), int(addresses.max())
        for argument in self._current:
            start, size = argument.tensor.data_ptr(), argument.tensor.element_size()
            if start <= low and high < start + argument.tensor.numel() * size:
                index = (addresses - np.uint64(start)) // np.uint64(size)
                if store:
                    np.add.at(argument.written, index, 1)
                else:
                    argument.read[index] = True
                return
        self.out_of_bounds += 1

    def total(self, attribute: str, *names: str, without: tuple[str, ...] = ()) -> int:
        """Sum of read_bytes or written_bytes over the arguments called `names` (default: all), except `without`."""
        return sum(
            getattr(a, attribute) for a in self.arguments if (not names or a.name in names) and a.name not in without
        )


@contextmanager
def counting():
    """Yields a Traffic that records every kernel launched in the block; the results of these kernels are invalid."""
    traffic = Traffic()
    patched: set = set()
    original_launch = GridExecutor.__call__

    def launch(self, *args, **kwargs):
        patched.clear()
        named = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in self.arg_names}
        traffic.begin(self.fn.__name__, named)
        with _disable_current_modes():  # do not count the interpreter's own copies
            return original_launch(self, *args, **kwargs)

    def call(self, *args, **kwargs):
        if self.fn not in patched:  # once per launch is enough
            interpreter._patch_lang(self.fn)
            patched.add(self.fn)
        return self.rewrite()(*args, **kwargs)

    def load(self, pointers, mask, *_, **__):
        traffic.note(pointers.data, mask.data, store=False)
        element = pointers.get_element_ty()
        return TensorHandle(np.zeros(pointers.data.shape, interpreter._get_np_dtype(element)), element)

    def store(self, pointers, value, mask, *_, **__):
        traffic.note(pointers.data, mask.data, store=True)

    def dot(self, a, b, total, *_, **__):
        return total

    def atomic(self, *args, **kwargs):
        traffic.atomics += 1
        raise TypeError("atomic: its result would depend on the order in which programs run")

    replacements = {
        (GridExecutor, "__call__"): launch,
        (InterpretedFunction, "__call__"): call,
        (InterpreterBuilder, "create_masked_load"): load,
        (InterpreterBuilder, "create_masked_store"): store,
        (InterpreterBuilder, "create_dot"): dot,
        (InterpreterBuilder, "create_atomic_rmw"): atomic,
        (InterpreterBuilder, "create_atomic_cas"): atomic,
    }
    with ExitStack() as patches:
        for (owner, name), function in replacements.items():
            patches.enter_context(patch.object(owner, name, function))
        yield traffic


class OpBytes(TorchDispatchMode):
    """Sums the bytes of the inputs and outputs of every op; views and allocations are free.

    LayerNorm's backward counts its two large inputs twice because CUDA reads them in two kernels, one for the input
    gradient and one for weight and bias (aten/src/ATen/native/cuda/layer_norm_kernel.cu).
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not is_free(func):
            inputs = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            moved = size_of(*inputs.values(), *(t for t in tree_leaves(result) if isinstance(t, torch.Tensor)))
            if func.overloadpacket.__name__ == "native_layer_norm_backward":
                moved += size_of(*args[:2])
            self.bytes += moved
        return result
