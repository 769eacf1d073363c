"""Loads torch.save files that contain objects other than tensors, without importing or calling any of them.

Lightning stores a Namespace or its own dictionary class beside the weights; other frameworks store whole optimizers or
settings of uninstalled libraries. `torch.load(weights_only=True)` rejects such files, and without it runs their code.
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
    """The content of the file: tensors, dictionaries, lists and numbers, with an `Inert` in place of anything else."""
    pickle_module = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="albert_fast.convert.inert")
    return torch.load(file, map_location="cpu", weights_only=False, pickle_module=pickle_module)


class Inert(dict):
    """Placeholder for any object, class or function; accepts whatever its pickle passes and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return Inert()

    def append(self, item: Any) -> None:
        """Ignore `item`."""

    extend = add = __setstate__ = append


class _Unpickler(pickle.Unpickler):
    """Resolves only the globals that tensors and dictionaries need, and anything else to `Inert`."""

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
