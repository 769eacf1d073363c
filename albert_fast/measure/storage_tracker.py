"""Follows every tensor storage from allocation to free while ordinary code runs, on the meta device or a real one."""

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
    """One storage: its bytes, the events at which it came and went (None: alive), and what made it.

    layer is the encoder layer whose code ran (None outside the layers); in_model is False for what backward and the
    optimizer make, unless a recomputed forward made it.
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
    """Inside `with`, notes every storage that an op makes. Events are counted: one for each allocation and free.

    Args:
        root: whose modules name what their code makes.
        scratch: bytes that an op takes inside and gives back before it returns, which its outputs do not show.
        bodies: for opaque ops, the Python to run in place of their fake, so that what happens inside is followed too.
        granularity: bytes that an allocation is rounded up to a multiple of.
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
        self.held: list[torch.Tensor] = []  # what the caller wants alive as long as the tracker

    def note(self, tensor: torch.Tensor, name: str = "", layer: int | None = None, in_model: bool = False) -> None:
        """Follow a tensor's storage from now on, once."""
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
