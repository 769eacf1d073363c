"""Tracks every tensor storage from allocation to free while code runs, on the meta device or a real one."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from albert_fast.measure.place import Places


@dataclass
class Lifetime:
    """A storage: bytes, the events of its allocation and free (None: alive), and the op that created it.

    layer is the encoder layer whose code was running (None outside the layers); in_model is False for storages created
    by backward and the optimizer, except in a recomputed forward.
    """

    bytes: int
    born: int
    name: str
    layer: int | None
    in_model: bool
    died: int | None = None

    def alive_at(self, event: int) -> bool:
        return self.born <= event and (self.died is None or self.died > event)


class StorageTracker(TorchDispatchMode):
    """Context manager that records every storage an op creates; each allocation and free is one event.

    Args:
        root: the model whose modules name the storages.
        scratch: returns the bytes that an op allocates and frees internally.
        bodies: Python bodies to run in place of the fakes of opaque ops, so that their storages are tracked too.
        granularity: allocations are rounded up to a multiple of this many bytes.
    """

    def __init__(
        self, root: nn.Module | None = None, scratch: Callable[[Any, tuple], int] | None = None,
        bodies: dict[Any, Callable] | None = None, granularity: int = 1,
    ):  # fmt: skip
        super().__init__()
        self.lifetimes: list[Lifetime] = []
        self.now = self.live_bytes = self.peak_bytes = self.peak_event = 0
        self._scratch, self._bodies, self._granularity = scratch, bodies or {}, granularity
        self._places = Places(root)
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self.held: list[torch.Tensor] = []  # tensors that the caller keeps alive with the tracker

    def note(self, tensor: torch.Tensor, name: str = "", layer: int | None = None, in_model: bool = False) -> None:
        """Start tracking a tensor's storage, unless it is tracked already."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = -(-storage.nbytes() // self._granularity) * self._granularity
        lifetime = Lifetime(size, self.now + 1, name, layer, in_model)
        self._move(size)
        self.lifetimes.append(lifetime)
        weakref.finalize(storage, self._free, lifetime).atexit = False

    def _move(self, size: int) -> None:
        self.now += 1
        self.live_bytes += size
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_event = self.live_bytes, self.now

    def _free(self, lifetime: Lifetime) -> None:
        self._move(-lifetime.bytes)
        lifetime.died = self.now

    def alive(self, event: int) -> list[Lifetime]:
        return [lifetime for lifetime in self.lifetimes if lifetime.alive_at(event)]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self._bodies:
            with self:
                return self._bodies[func](*args, **kwargs)
        place = self._places.find()
        result = func(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        made = [x for x in made if x.untyped_storage() not in self._known]
        size = self._scratch(func, args) if self._scratch else 0
        operator = str(func).removeprefix("aten.").removesuffix(".default").partition(".")[0]
        name = f"{place.module} {operator}".strip()
        for tensor in made:
            self.note(tensor, name, place.layer, place.in_model)
        if size:
            inside = Lifetime(size, self.now + 1, f"{name} (scratch)", place.layer, False)
            self._move(size)
            self.lifetimes.append(inside)
            self._free(inside)
        return result
