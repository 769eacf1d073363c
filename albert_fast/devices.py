"""Where to compute, and in what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from albert_fast.config import UserError, option


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where to compute, and in what."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute; auto: CUDA where there is one")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "compute precision; auto: bf16 on CUDA, fp32 on CPU")
    ops: Literal["auto", "torch", "triton"] = option("auto", "op implementations; auto: triton on CUDA, torch on CPU")

    def resolve(self) -> tuple[torch.device, torch.dtype]:
        """The device and dtype these mean here."""
        kind = device_kind(self.device)
        return torch.device(kind), compute_dtype(self.precision, kind)


def device_kind(device: str) -> str:
    """cpu or cuda, of auto, cpu or cuda; UserError where it is not here."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device here; use --device cpu")
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def compute_dtype(precision: str, kind: str) -> torch.dtype:
    """The dtype of `precision`, auto, fp32 or bf16, on a device of this kind."""
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and kind == "cuda") else torch.float32
