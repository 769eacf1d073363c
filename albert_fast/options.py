"""Options: dataclass fields that are command-line flags, the checks on them, and the errors and notes they give."""

from __future__ import annotations

import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch  # imported where it is used: `albert-fast --help` needs none of it


class UserError(ValueError):
    """Bad input from outside; the message is one line: the value, the rule, the remedy."""

    exit_code = 2


def option(default: Any = MISSING, help: str = "", **metadata: Any) -> Any:
    """A dataclass field that is also a command-line flag: its default (none: the flag is required) and help line.

    Args:
        metadata: bounds that `check_options` holds a number to: at_least, at_most, above, below; for the command line
            `metavar` (what the help shows for the value) and `positional`.
    """
    return field(default=default, metadata={"help": help, **metadata})


def note(message: str) -> None:
    """One line for the user on standard error, which keeps standard output free for results."""
    print(f"note: {message}", file=sys.stderr)


def first_line(error: BaseException) -> str:
    """The first line of what an error says or, where it says nothing, its kind: compilers' errors fill pages."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise UserError where `value` is none of `choices`."""
    if value not in choices:
        raise UserError(f"{name}={value!r} is unknown; use one of {', '.join(choices)}")


def check_unchanged(given: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Raise UserError where a run that goes on was given another value than it began with.

    Args:
        given: the settings that may not change; what `before` does not record is not compared.
    """
    for name, value in json.loads(json.dumps(dict(given))).items():
        if name in before and before[name] != value:
            raise another_run(name, value, before[name])


def another_run(name: str, given: Any, before: Any, what: str = "") -> UserError:
    """The error of a setting that may not change when a run goes on; `what` is different, where its value is a name."""
    differs = f"{name}={str(given)[:200]} {f'holds {what} than' if what else 'differs from'} the run's {before}"
    return UserError(f"{differs}, and would make it another run; leave --{name} as it was, or give another folder")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every class of options. Its fields are checked when it is made, from Python as from the command line."""

    def __post_init__(self) -> None:
        check_options(self)


def check_options(options: Any) -> None:
    """Check every field of a dataclass against its annotation (type, Literal) and the bounds given to `option`.

    Raises:
        UserError: a value of another type, none of the Literal's, not finite, or out of bounds.
    """
    kinds = _hints(type(options))  # type: ignore[arg-type]
    for f in fields(options):
        _check(f.name, getattr(options, f.name), kinds[f.name], f.metadata)


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
    elif kind is str:
        if not isinstance(value, str):
            raise UserError(f"{name}={value!r} must be a string")
    elif kind is bool:
        if not isinstance(value, bool):
            raise UserError(f"{name}={value!r} must be true or false")
    elif kind in (int, float):
        if not isinstance(value, Integral if kind is int else Real) or isinstance(value, bool):
            raise UserError(f"{name}={value!r} must be {'a whole number' if kind is int else 'a number'}")
        if not math.isfinite(value):
            raise UserError(f"{name}={value} must be finite")
        _check_bounds(name, value, bounds)


def _check_bounds(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    low, high = bounds.get("at_least"), bounds.get("at_most")
    above, below = bounds.get("above"), bounds.get("below")
    rules = [
        (low is None or value >= low, f"{low} or more"),
        (above is None or value > above, f"above {above}"),
        (high is None or value <= high, f"{high} or less"),
        (below is None or value < below, f"below {below}"),
    ]
    if not all(holds for holds, _ in rules):
        given = [bound is not None for bound in (low, above, high, below)]
        asked = " and ".join(words for (_, words), wanted in zip(rules, given, strict=True) if wanted)
        raise UserError(f"{name}={value} must be {asked}")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
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
