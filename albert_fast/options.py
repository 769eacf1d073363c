"""Options: dataclass fields that are command-line flags, their checks, and errors and notes for the user."""

from __future__ import annotations

import json
import math
import operator
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch  # at run time only where it is used: `albert-fast --help` does not need it


class UserError(ValueError):
    """Bad input from the user; the message is one line with the value, the rule and the remedy."""

    exit_code = 2


def option(default: Any = MISSING, help: str = "", **metadata: Any) -> Any:
    """A dataclass field that is also a command-line flag; without a default the flag is required.

    Args:
        metadata: bounds of a number, checked by `check_options`: at_least, at_most, above, below; for the command line,
            `metavar` (the value's name in the help) and `positional`.
    """
    return field(default=default, metadata={"help": help, **metadata})


def note(message: str) -> None:
    """Print one line for the user to standard error; standard output is for results."""
    print(f"note: {message}", file=sys.stderr)


def first_line(error: BaseException) -> str:
    """The first line of an error's message (compilers' fill pages), or its type if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `choices`."""
    if value not in choices:
        raise UserError(f"{name}={value!r} is unknown; use one of {', '.join(choices)}")


def check_unchanged(given: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Raise UserError if a resumed run was given another value than it started with.

    Args:
        given: the settings that must not change; those that `before` does not record are not compared.
    """
    for name, value in json.loads(json.dumps(dict(given))).items():
        if name in before and before[name] != value:
            raise changed_setting(name, value, before[name])


def changed_setting(name: str, given: Any, before: Any, what: str = "") -> UserError:
    """The error for a setting that a resumed run cannot change; for a path, `what` names the contents that differ."""
    differs = f"{name}={str(given)[:200]} {f'holds {what} than' if what else 'differs from'} the run's {before}"
    return UserError(f"{differs}, and a run cannot change it; keep --{name} as it was, or use another output folder")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class of options; fields are checked on construction, from Python and from the command line alike."""

    def __post_init__(self) -> None:
        check_options(self)


def check_options(options: Any) -> None:
    """Check every field of a dataclass against its annotation (type, Literal) and the bounds given to `option`.

    Raises:
        UserError: a value has the wrong type, is not one of the Literal's, is not finite, or is out of bounds.
    """
    kinds = _hints(type(options))  # type: ignore[arg-type]
    for f in fields(options):
        _check(f.name, getattr(options, f.name), kinds[f.name], f.metadata)


_BOUNDS = (
    ("at_least", operator.ge, "{} or more"),
    ("above", operator.gt, "above {}"),
    ("at_most", operator.le, "{} or less"),
    ("below", operator.lt, "below {}"),
)


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _check(name: str, value: Any, kind: Any, bounds: Mapping[str, Any]) -> None:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):  # X | None
        if value is not None:
            _check(name, value, next(x for x in arguments if x is not type(None)), bounds)
    elif origin is Literal:
        check_choice(name, value, arguments)
    elif origin is tuple:
        for item in value:
            _check(name, item, arguments[0], bounds)
    elif kind in (str, bool):
        if not isinstance(value, kind):
            raise UserError(f"{name}={value!r} must be {'a string' if kind is str else 'true or false'}")
    elif kind in (int, float):
        if not isinstance(value, Integral if kind is int else Real) or isinstance(value, bool):
            raise UserError(f"{name}={value!r} must be {'a whole number' if kind is int else 'a number'}")
        if not math.isfinite(value):
            raise UserError(f"{name}={value} must be finite")
        rules = [
            (compare(value, bounds[key]), text.format(bounds[key])) for key, compare, text in _BOUNDS if key in bounds
        ]
        if not all(holds for holds, _ in rules):
            raise UserError(f"{name}={value} must be {' and '.join(text for _, text in rules)}")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Device and precision."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "device to compute on; auto: CUDA if available")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "compute precision; auto: bf16 on CUDA, fp32 on CPU")
    ops: Literal["auto", "torch", "triton"] = option("auto", "op implementations; auto: triton on CUDA, torch on CPU")

    def resolve(self) -> tuple[torch.device, torch.dtype]:
        """The device and compute dtype on this machine."""
        import torch

        kind = device_kind(self.device)
        return torch.device(kind), compute_dtype(self.precision, kind)


def device_kind(device: str) -> str:
    """Resolve auto, cpu or cuda to cpu or cuda; UserError if CUDA is requested but missing."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch finds no CUDA device; use --device cpu")
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def compute_dtype(precision: str, kind: str) -> torch.dtype:
    """The dtype for `precision` (auto, fp32 or bf16) on a device of this kind."""
    import torch

    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and kind == "cuda") else torch.float32
