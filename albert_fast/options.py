"""Options: dataclass fields that are command-line flags, the checks on them, and the errors and notes they give."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch  # imported where it is used: `albert-fast --help` needs none of it


class UserError(ValueError):
    """Bad input from outside; the message is one line: the value, the rule, the remedy."""


def option(default: Any = MISSING, help: str = "", **metadata: Any) -> Any:
    """A dataclass field that is also a command-line flag: its default (none: the flag is required) and help line."""
    return field(default=default, metadata={"help": help, **metadata})


def note(message: str) -> None:
    """One line for the user on standard error, which keeps standard output free for results."""
    print(f"note: {message}", file=sys.stderr)


def check_positive(options: Any, *names: str) -> None:
    """UserError where one of the fields `names`, whole numbers or None, is below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be 1 or more")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r} is unknown; use one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where to compute, and in what."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute; auto: CUDA where there is one")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "compute precision; auto: bf16 on CUDA, fp32 on CPU")
    ops: Literal["auto", "torch", "triton"] = option("auto", "op implementations; auto: triton on CUDA, torch on CPU")

    def resolve(self) -> tuple[torch.device, torch.dtype]:
        """The device and dtype these mean here."""
        import torch

        kind = device_kind(self.device)
        return torch.device(kind), compute_dtype(self.precision, kind)


def device_kind(device: str) -> str:
    """cpu or cuda, of auto, cpu or cuda; UserError where it is not here."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device here; use --device cpu")
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def compute_dtype(precision: str, kind: str) -> torch.dtype:
    """The dtype of `precision`, auto, fp32 or bf16, on a device of this kind."""
    import torch

    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and kind == "cuda") else torch.float32
