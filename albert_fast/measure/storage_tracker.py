"""Follows every tensor storage from allocation to free while ordinary code runs, on the meta device or a real one."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from albert_fast import model


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
        skip: code of the functions whose allocations do not happen on the device that is asked about.
    """

    def __init__(
        self,
        root: nn.Module | None = None,
        scratch: Callable[[Any, tuple], int] | None = None,
        bodies: dict[Any, Callable] | None = None,
        skip: frozenset[CodeType] = frozenset(),
        granularity: int = 1,
    ):
        super().__init__()
        self.lifetimes: list[Lifetime] = []
        self.now = self.live_bytes = self.peak_bytes = self.peak_event = 0
        self._scratch, self._bodies, self._skip, self._granularity = scratch, bodies or {}, skip, granularity
        self._names = {} if root is None else {id(module): name for name, module in root.named_modules()}
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

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self._bodies:
            with self:
                return self._bodies[func](*args, **kwargs)
        name, layer, in_model, skipped = self._place(sys._getframe(1), func)
        result = func(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        made = [x for x in made if x.untyped_storage() not in self._known]
        size = self._scratch(func, args) if self._scratch else 0
        if not skipped:
            for tensor in made:
                self.note(tensor, name, layer, in_model)
            if size:
                inside = Lifetime(size, self.now + 1, f"{name} (scratch)", layer, False)
                self._move(size)
                self.lifetimes.append(inside)
                self._free(inside)
        return result

    def _place(self, frame: FrameType | None, func: Any) -> tuple[str, int | None, bool, bool]:
        """What code is running: a name for its output, the encoder layer, whether it is the model's, or skipped."""
        name, layer, in_model, skipped = "", None, False, False
        while frame is not None:
            skipped = skipped or frame.f_code in self._skip
            if frame.f_code.co_filename == model.__file__:
                # Reading f_locals keeps what they hold until they are read again, before the next op: here.
                variables = frame.f_locals
                in_model = True
                module = variables.get("self")
                name = name or self._names.get(id(module), "")
                if layer is None and isinstance(module, model.Layer):
                    layer = module.depth
            frame = frame.f_back
        operator = str(func).removeprefix("aten.").removesuffix(".default").partition(".")[0]
        place = ".".join(part for part in name.split(".") if not part.isdigit())
        return f"{place.removeprefix('albert.')} {operator}".strip(), layer, in_model, skipped
