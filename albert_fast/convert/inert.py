"""Reads the tensors of a torch.save file that holds other objects too, without importing or calling any of those.

Lightning keeps a Namespace or a dictionary class of its own beside the weights, others whole optimizers or settings of
libraries that are not here. `torch.load(weights_only=True)` refuses such files, and its other way runs what they say.
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

_REBUILT = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")


def load_inert(file: Path) -> Any:
    """What the file holds, tensors, dictionaries, lists and numbers as they are, and an `Inert` for all else."""
    pickle_module = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="albert_fast.convert.inert")
    return torch.load(file, map_location="cpu", weights_only=False, pickle_module=pickle_module)


class Inert(dict):
    """Stands for an object, class or function of whatever kind; takes what its pickle gives it and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return Inert()

    def __setstate__(self, state: Any) -> None:
        """Nothing of it is needed."""

    def append(self, item: Any) -> None:
        """Nothing of it is needed."""

    extend = add = append


class _Unpickler(pickle.Unpickler):
    """Finds what tensors and dictionaries are made with, and `Inert` in place of anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in _REBUILT:
            return getattr(torch._utils, name)
        found = getattr(torch, name, None) if module == "torch" else None
        storage = isinstance(found, type) and name.endswith("Storage")
        return found if storage or found is torch.Size or isinstance(found, torch.dtype) else Inert


def _load(stream: BinaryIO, **settings: Any) -> Any:
    return _Unpickler(stream, **settings).load()
