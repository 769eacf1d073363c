"""Argument checks shared by the ops, and conversion of [..., H] to rows [T, H] and back."""

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_INTERPRETED = triton.knobs.runtime.interpret  # read once at import, like triton.jit does


def check_device(op: str, x: Tensor) -> None:
    """Raise ValueError for a CPU tensor unless kernels are interpreted; meta and fake tensors run no kernel."""
    if x.device.type == "cpu" and not _INTERPRETED and not isinstance(x, FakeTensor):
        raise ValueError(
            f"the kernel {op} needs a CUDA tensor, and x is on the CPU: use albert_fast.ops.{op} there, or set "
            "TRITON_INTERPRET=1 before importing the kernels to interpret them, which is slow"
        )


def checked_key(dropout: float, key: Tensor | None, x: Tensor) -> Tensor | None:
    """The dropout key, None without dropout; ValueError if the probability or the key is invalid."""
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} must be in [0, 1)")
    if dropout > 0 and (key is None or key.dtype != torch.int64 or key.numel() != 2 or key.device != x.device):
        raise ValueError(f"dropout={dropout} needs a key: an int64 tensor [seed, micro-batch] on {x.device}")
    return key if dropout > 0 else None


def cdiv(a: int, b: int) -> int:
    """a / b rounded up; triton.cdiv would take microseconds on the host."""
    return -(-a // b)


def to_rows(x: Tensor) -> Tensor:
    """x [..., H] -> [T, H], where T is the product of the leading dimensions; a view if x is contiguous."""
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def from_rows(y: Tensor, x: Tensor) -> Tensor:
    """y [T, M], computed from to_rows(x) -> view [..., M] with the leading dimensions of x."""
    return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[-1])
