"""Takes off what training frameworks put around a model: dictionaries of more than weights, prefixes of names."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from albert_fast.options import UserError

T = TypeVar("T")

# A table that every ALBERT has, whatever its project calls the module that holds it.
_ANCHOR = re.compile(r"(?:(?:albert|bert)[./])?embeddings[./]word_embeddings(?:\.weight)?$")
# torch.compile, DataParallel, FSDP and activation checkpointing put themselves anywhere into a name.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE = re.compile(r"(?:^|[_.])(?:ema|swa|averaged?|shadow)(?:[_.]|$)", re.IGNORECASE)


def unwrap(held: Any, file: Path, use_averages: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in what a file holds, under the model's own names, and remarks on what was taken off.

    That is itself, or the one dictionary in it with an ALBERT's weights: Lightning keeps them under state_dict,
    NVIDIA's scripts under model, others elsewhere. Of the weights and their averages (names with ema, swa or average)
    `use_averages` takes the averages. Scalars are counters.

    Raises:
        UserError: naming what the file holds, where there is no such dictionary or more than one.
    """
    found = {".".join(path): weights for path, weights in _state_dicts(held, ())}
    if not found and held and isinstance(held, dict) and all(isinstance(value, Tensor) for value in held.values()):
        found = {"": held}  # whose error names what it holds
    if not found:
        there = ", ".join(map(str, held)) if isinstance(held, dict) else type(held).__name__
        there = there or "one object, perhaps a whole model"
        raise UserError(f"{file} is no state dict of an ALBERT (it holds {there[:200]}); save model.state_dict() alone")
    averages = any(_AVERAGE.search(name) for name in found)
    name = _wanted(found, file, use_averages and averages)
    remarks = [f"took the weights under {name}"] if name else []
    weights = {key: value for key, value in found[name].items() if isinstance(value, Tensor) and value.dim() > 0}
    if others := [str(key) for key in found[name] if key not in weights]:
        remarks.append(f"skipped {', '.join(others)} (no weights)")
    weights, more = unwrapped(weights, file, use_averages and not averages)
    return weights, remarks + more


def _state_dicts(held: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every dictionary of at most three levels down that holds an ALBERT's word embeddings, with the way to it."""
    if not isinstance(held, dict) or len(path) > 3:
        return
    if any(isinstance(value, Tensor) and _ANCHOR.search(str(name)) for name, value in held.items()):
        yield path, held
        return
    for name, value in held.items():
        yield from _state_dicts(value, (*path, str(name)))


def unwrapped(weights: Mapping[str, T], file: Path, use_averages: bool = False) -> tuple[dict[str, T], list[str]]:
    """The weights under names without the prefixes of wrappers, and remarks on them; `bert.` or `albert.` stays.

    Wrappers of PyTorch go wherever they stand; then whatever precedes the word embeddings' own name (model., net.,
    a scope of TensorFlow's) goes from every name that begins with it. Of a model and its average one is left.
    """
    bare = {name: _WRAPPERS.sub("", name) for name in weights}
    prefixes = {_ANCHOR.sub("", name) for name in bare.values() if _ANCHOR.search(name)}
    prefixes = {prefix for prefix in prefixes if prefix.endswith((".", "/", "_")) or not prefix}
    prefix = _wanted(prefixes, file, use_averages) if prefixes else ""
    others = tuple(other for other in prefixes if other and other != prefix)
    kept = {name: plain.removeprefix(prefix) for name, plain in bare.items() if not plain.startswith(others)}
    if len(set(kept.values())) < len(kept):
        twice = sorted(name for name, plain in kept.items() if name != plain and plain in kept)
        raise UserError(
            f"{file}: without their wrappers' prefixes several weights have one name: {', '.join(twice)[:200]}"
        )
    taken = sorted({part for name in kept for part in _WRAPPERS.findall(name)} | ({prefix} if prefix else set()))
    remarks = [f"took wrappers' prefixes off the names: {', '.join(taken)}"] if taken else []
    remarks += [f"skipped {len(bare) - len(kept)} weights under {', '.join(others)}"] if others else []
    return {plain: weights[name] for name, plain in kept.items()}, remarks


def _wanted(names: Collection[str], file: Path, use_averages: bool) -> str:
    """Of several models the one that is no average, or is one; UserError where that leaves none or several."""
    averages = {name for name in names if _AVERAGE.search(name)}
    wanted = averages if use_averages else {*names} - averages or averages
    if len(wanted) == 1:
        return wanted.pop()
    if not wanted:
        raise UserError(f"{file} holds no average of the weights; leave --use_averages out")
    raise UserError(f"{file} holds several models, {', '.join(sorted(wanted))}; save the one that is meant alone")
