"""Tensors on their way into an op and out of it: on a device that kernels run on, and as rows [T, H]."""

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_INTERPRETED = triton.knobs.runtime.interpret  # as triton.jit reads it: once, when the kernels are imported


def check_device(op: str, x: Tensor) -> None:
    """Raises a ValueError where x lies on the CPU and kernels are compiled; meta and fake tensors run none."""
    if x.device.type == "cpu" and not _INTERPRETED and not isinstance(x, FakeTensor):
        raise ValueError(
            f"the kernel {op} needs a CUDA tensor, and x is on the CPU: use albert_fast.ops.{op} there, or set "
            "TRITON_INTERPRET=1 before importing the kernels to interpret them, slowly"
        )


def checked_key(dropout: float, key: Tensor | None, x: Tensor) -> Tensor | None:
    """The key of a dropout, None where there is none; a ValueError where it cannot be drawn from."""
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} must be in [0, 1)")
    if dropout > 0 and (key is None or key.dtype != torch.int64 or key.numel() != 2 or key.device != x.device):
        raise ValueError(f"dropout={dropout} needs a key: an int64 tensor [seed, micro-batch] on {x.device}")
    return key if dropout > 0 else None


def cdiv(a: int, b: int) -> int:
    """a / b rounded up; triton.cdiv takes microseconds on the host."""
    return -(-a // b)


def to_rows(x: Tensor) -> Tensor:
    """x [..., H] -> [T, H], T the product of the leading dimensions; a view where x is contiguous."""
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def from_rows(y: Tensor, x: Tensor) -> Tensor:
    """y [T, M], made of to_rows(x) -> a view [..., M] with the leading dimensions of x."""
    return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[-1])
