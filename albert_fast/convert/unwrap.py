"""Extracts a state dict from the nested dictionaries and name prefixes of training frameworks."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from albert_fast.options import UserError

T = TypeVar("T")

# Every ALBERT has this table, whatever its parent module is called.
_ANCHOR = re.compile(r"(?:(?:albert|bert)[./])?embeddings[./]word_embeddings(?:\.weight)?$")
# torch.compile, DataParallel, FSDP and activation checkpointing add these anywhere in a name.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE = re.compile(r"(?:^|[_.])(?:ema|swa|averaged?|shadow)(?:[_.]|$)", re.IGNORECASE)


def unwrap(held: Any, file: Path, use_averages: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """Extract the weights from the content of a file, by the model's own names, with remarks on what was removed.

    The weights are the content itself or the one dictionary in it with an ALBERT's weights: Lightning stores them under
    state_dict, NVIDIA's scripts under model. If there are also averages (names with ema, swa or average),
    `use_averages` selects them. Scalars are counters and skipped.

    Raises:
        UserError: there is no such dictionary or more than one; the message lists the content.
    """
    found = {".".join(path): weights for path, weights in _state_dicts(held, ())}
    if not found and held and isinstance(held, dict) and all(isinstance(value, Tensor) for value in held.values()):
        found = {"": held}  # the caller's error will list its names
    if not found:
        content = ", ".join(map(str, held)) if isinstance(held, dict) else type(held).__name__
        content = content or "a single object, perhaps a whole model"
        raise UserError(f"{file} is not a state dict of an ALBERT (content: {content[:200]}); save model.state_dict()")
    averages = any(_AVERAGE.search(name) for name in found)
    name = _wanted(found, file, use_averages and averages)
    remarks = [f"used the weights under {name}"] if name else []
    weights = {key: value for key, value in found[name].items() if isinstance(value, Tensor) and value.dim() > 0}
    if others := [str(key) for key in found[name] if key not in weights]:
        remarks.append(f"skipped {', '.join(others)} (not weights)")
    weights, more = unwrapped(weights, file, use_averages and not averages)
    return weights, remarks + more


def _state_dicts(held: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield (path, dictionary) for every dictionary with ALBERT word embeddings, at most three levels deep."""
    if not isinstance(held, dict) or len(path) > 3:
        return
    if any(isinstance(value, Tensor) and _ANCHOR.search(str(name)) for name, value in held.items()):
        yield path, held
        return
    for name, value in held.items():
        yield from _state_dicts(value, (*path, str(name)))


def unwrapped(weights: Mapping[str, T], file: Path, use_averages: bool = False) -> tuple[dict[str, T], list[str]]:
    """Strip wrapper prefixes from the names and return remarks on them; `bert.` and `albert.` are kept.

    PyTorch wrappers are removed anywhere in a name. Then whatever precedes the name of the word embeddings (model.,
    net., a TensorFlow scope) is removed from every name. Of a model and its average only one is kept.
    """
    bare = {name: _WRAPPERS.sub("", name) for name in weights}
    prefixes = {_ANCHOR.sub("", name) for name in bare.values() if _ANCHOR.search(name)}
    prefixes = {prefix for prefix in prefixes if prefix.endswith((".", "/", "_")) or not prefix}
    prefix = _wanted(prefixes, file, use_averages) if prefixes else ""
    others = tuple(other for other in prefixes if other and other != prefix)
    kept = {name: plain.removeprefix(prefix) for name, plain in bare.items() if not plain.startswith(others)}
    if len(set(kept.values())) < len(kept):
        duplicates = sorted(name for name, plain in kept.items() if name != plain and plain in kept)
        raise UserError(f"{file}: names collide without prefixes: {', '.join(duplicates)[:200]}; save one model alone")
    removed = sorted({part for name in kept for part in _WRAPPERS.findall(name)} | ({prefix} if prefix else set()))
    remarks = [f"removed wrapper prefixes from the names: {', '.join(removed)}"] if removed else []
    remarks += [f"skipped {len(bare) - len(kept)} weights under {', '.join(others)}"] if others else []
    return {plain: weights[name] for name, plain in kept.items()}, remarks


def _wanted(names: Collection[str], file: Path, use_averages: bool) -> str:
    """The one model that is an average if `use_averages` or if all are, else the one that is not; or UserError."""
    averages = {name for name in names if _AVERAGE.search(name)}
    wanted = averages if use_averages else {*names} - averages or averages
    if len(wanted) == 1:
        return wanted.pop()
    if not wanted:
        raise UserError(f"{file} contains no average of the weights; omit --use_averages")
    raise UserError(f"{file} contains several models, {', '.join(sorted(wanted))}; save the one to convert alone")
