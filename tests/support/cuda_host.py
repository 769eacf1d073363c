"""Simulates the host side of CUDA on a CPU: streams, events, graphs, pinned memory and the allocator; finds races.

Ops run immediately on the CPU; the order that CUDA guarantees is simulated. Every memory access is recorded with its
stream. Each stream and the host have a vector clock (Lamport 1978, Mattern 1989): two accesses, at least one of them a
write, must be ordered by launches, events or waits. Graphs keep addresses instead of tensors, as in CUDA.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten

DEVICE = torch.device("cuda", 0)
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "aten.equal.default")  # ops that synchronize the host


class Clock(dict):
    """A vector clock: the progress of each stream and of the host."""

    def join(self, other: Clock) -> None:
        for name, count in other.items():
            self[name] = max(self.get(name, 0), count)


class Stream:
    def __init__(self, host: CudaHost, name: str):
        self.host, self.name, self.clock, self.device_index = host, name, Clock(), 0

    def wait_event(self, event: Event) -> None:
        self.clock.join(event.clock)

    def wait_stream(self, other: Stream) -> None:
        self.clock.join(other.clock)


class Event:
    """A CUDA event; waiting for it before its first record returns at once."""

    def __init__(self, host: CudaHost):
        self.host, self.clock = host, Clock()

    def record(self) -> None:
        self.clock = Clock(self.host.current.clock)

    def synchronize(self) -> None:
        self.host.waits.append("event")
        self.host.clock.join(self.clock)

    def elapsed_time(self, end: Event) -> float:
        """1 ms per op or replay that the current stream ran in between."""
        name = self.host.current.name
        return float(end.clock.get(name, 0) - self.clock.get(name, 0))


class Memory:
    """An allocation: the stream that made it, and its accesses since the last ordered write."""

    def __init__(self, name: str, stream: str, storage: torch.UntypedStorage, pinned: bool):
        self.name, self.stream, self.pinned, self.reference = name, stream, pinned, StorageWeakRef(storage)
        self.accesses: dict[tuple[bool, str], int] = {}  # (is it a write, stream or host) -> time of the last one


class External:
    """A tensor that a graph uses but did not create: an address and a shape, which do not keep the memory alive."""

    def __init__(self, memory: Memory, tensor: torch.Tensor):
        self.memory, self.dtype = memory, tensor.dtype
        self.geometry = (tensor.storage_offset(), tensor.shape, tensor.stride())

    def tensor(self) -> torch.Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.memory.reference.cdata)
        if storage is None:
            raise Fault(f"a graph uses {self.memory.name}, which was freed")
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.geometry)


class Fault(AssertionError):
    """An error that would be undefined behavior on a GPU."""


class Graph:
    def __init__(self, host: CudaHost):
        self.host, self.ops, self.made = host, [], {}
        self.reads, self.writes = {}, {}  # memory that the graph did not create, by name
        self.usable = False
        host.graphs.add(self)

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        host = self.host
        alive = [m.name for m in host.memories() if m.stream == host.current.name]
        if alive:
            host.faults.append(f"{len(alive)} tensors of the warm-up are alive at capture")
        host.capturing, host.invalidated, host.allocating_to = self, False, pool
        host.generator.capturing = True
        self.memory_pool, self.kept = pool, []
        host.pools.append(pool)

    def capture_end(self) -> None:
        """As in PyTorch 2.11, the allocator is not notified of the end of an invalid capture."""
        host = self.host
        if host.capturing is not self:
            raise RuntimeError("capture_end() called before capture_begin().")
        host.capturing, self.kept = None, []
        if host.invalidated:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        host.allocating_to, host.generator.capturing, self.usable = None, False, True
        if host.fail_at == -1:
            raise RuntimeError("planted failure")

    def pool(self) -> Any:
        if not self.usable:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self.memory_pool

    def reset(self) -> None:
        if self.usable:
            self.host.pools.remove(self.memory_pool)
        self.usable, self.ops = False, []

    def record(self, func: Callable, args: Any, outputs: list[Any], changed: list[Memory]) -> None:
        leaves, spec = tree_flatten(args)
        inputs = []
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                leaf = self.made.get(id(leaf)) or External(self.host.memory(leaf), leaf)
            if isinstance(leaf, External):
                (self.writes if leaf.memory in changed else self.reads)[leaf.memory.name] = leaf.memory
            inputs.append(leaf)
        self.kept += [*leaves, *outputs]  # keeps ids unique during the capture
        known = {id(leaf) for leaf in leaves}
        slots = []
        for output in outputs:
            new = isinstance(output, torch.Tensor) and id(output) not in known
            if new:
                self.made.setdefault(id(output), _Slot())
            slots.append(self.made.get(id(output)) if isinstance(output, torch.Tensor) else None)
        self.ops.append((func, inputs, spec, slots))

    @torch.no_grad()
    def replay(self) -> None:
        if not self.usable:
            raise Fault("a graph was replayed after its reset")
        self.host.enqueue(list(self.reads.values()), list(self.writes.values()))
        values: dict[Any, Any] = {}
        with _disable_current_modes():
            for func, inputs, spec, slots in self.ops:
                leaves = [values[x] if isinstance(x, _Slot) else x.tensor() if isinstance(x, External) else x
                          for x in inputs]  # fmt: skip
                args, keywords = tree_unflatten(leaves, spec)
                values.update(zip(slots, tree_flatten(func(*args, **keywords))[0], strict=True))


class _Slot:
    """The output of an op in a replay."""


class _Generator:
    capturing = False

    def clone_state(self) -> _Generator:
        return _Generator()

    def graphsafe_set_state(self, other: _Generator) -> None:
        self.capturing = other.capturing


class CudaHost:
    """Attributes: faults; waits, of the host for the device; written, names of memory written since it was cleared.

    fail_at: number of the captured op at which CUDA fails and invalidates the capture; -1: fail after the capture.
    """

    def __init__(self, fail_at: int | None = None):
        self.clock, self.faults, self.waits, self.pools = Clock(), [], [], []
        self.main = Stream(self, "main")
        self.stack, self.count, self.table = [self.main], 0, {}
        self.graphs: weakref.WeakSet[Graph] = weakref.WeakSet()
        self.capturing, self.invalidated, self.allocating_to, self.generator = None, False, None, _Generator()
        self.written: set[str] = set()
        self.fail_at, self.captured_ops = fail_at, 0

    @property
    def current(self) -> Stream:
        return self.stack[-1]

    def fork(self, *_: Any) -> Stream:
        self.count += 1
        return Stream(self, f"stream{self.count}")

    @contextmanager
    def use(self, stream: Stream) -> Iterator[None]:
        self.stack.append(stream)
        try:
            yield
        finally:
            self.stack.pop()

    def synchronize(self, *_: Any) -> None:
        self.wait("synchronize", self.current.clock)
        self.clock.join(self.main.clock)

    def wait(self, what: str, clock: Clock) -> None:
        if self.capturing:
            self.invalidated = True
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        self.waits.append(what)
        self.clock.join(clock)

    def end_allocate(self, _: int, pool: Any) -> None:
        if self.allocating_to != pool:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.allocating_to = None

    def memory(self, tensor: torch.Tensor, pinned: bool = False) -> Memory:
        storage = tensor.untyped_storage()
        found = self.table.get(storage._cdata)
        if found is None:  # the weak reference prevents reuse of the address
            name = f"{tuple(tensor.shape)} #{len(self.table)}"
            stream = "graph" if self.capturing else self.current.name
            found = self.table[storage._cdata] = Memory(name, stream, storage, pinned)
        return found

    def memories(self) -> list[Memory]:
        return [memory for memory in self.table.values() if not memory.reference.expired()]

    def is_host(self, tensor: torch.Tensor) -> bool:
        found = self.table.get(tensor.untyped_storage()._cdata)
        return found is not None and found.pinned

    def _tick(self, stream: Stream) -> None:
        stream.clock.join(self.clock)
        stream.clock[stream.name] = stream.clock.get(stream.name, 0) + 1

    def enqueue(self, reads: list[Memory], writes: list[Memory]) -> None:
        self._tick(self.current)
        for memory in reads:
            self._access(memory, False, self.current.name, self.current.clock)
        for memory in writes:
            self._access(memory, True, self.current.name, self.current.clock)

    def host_access(self, tensor: torch.Tensor) -> None:
        self.clock["host"] = self.clock.get("host", 0) + 1
        self._access(self.memory(tensor), True, "host", self.clock)

    def _access(self, memory: Memory, writes: bool, who: str, clock: Clock) -> None:
        for (wrote, other), count in memory.accesses.items():
            if (writes or wrote) and clock.get(other, 0) < count:
                kind = "write" if writes else "read"
                self.faults.append(f"race on {memory.name}: {kind} by {who}, {'write' if wrote else 'read'} by {other}")
        if writes:
            memory.accesses = {}
            self.written.add(memory.name)
        memory.accesses[writes, who] = clock[who]


class _Functions(TorchFunctionMode):
    """The view from Python: tensors other than pinned ones are on CUDA, and reading a value synchronizes the host."""

    def __init__(self, host: CudaHost):
        super().__init__()
        self.host = host

    def __torch_function__(self, func, types, args=(), kwargs=None):
        host, kwargs = self.host, dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return torch.device("cpu") if host.is_host(args[0]) else DEVICE
        on_host = kwargs.pop("pin_memory", False)
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        if name in ("to", "cpu", "tolist", "numpy") and isinstance(args[0], torch.Tensor):
            if name == "numpy" and host.is_host(args[0]):
                host.host_access(args[0])
            elif name != "to":
                host.wait(name, host.current.clock)
            args = tuple("cpu" if isinstance(x, torch.device) else x for x in args)
        result = func(*args, **kwargs)
        if on_host or name == "cpu":
            result = result.clone() if name == "cpu" else result
            memory = host.memory(result)
            memory.pinned, memory.accesses = True, {}  # created by the host, not by a stream
        return result


class _Accesses(TorchDispatchMode):
    """The view of the device: reads and writes of every op, on the current stream or in the graph being captured."""

    def __init__(self, host: CudaHost):
        super().__init__()
        self.host = host

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        host, kwargs = self.host, kwargs or {}
        if any(op in str(func) for op in ASKING):
            host.wait(str(func), host.current.clock)
        if host.capturing is not None:
            if host.captured_ops == host.fail_at:
                host.fail_at, host.invalidated = None, True
                raise RuntimeError(f"planted failure\nat {func}")
            host.captured_ops += 1
        result = func(*args, **kwargs)
        leaves = tree_flatten(result)[0]
        outputs = [x for x in leaves if isinstance(x, torch.Tensor)]
        changed = [host.memory(x) for x in _changed(func, args, kwargs)]
        if host.capturing is not None:
            host.capturing.record(func, (args, kwargs), leaves, changed)
            for output in outputs:
                host.memory(output)
            return result
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        inputs = {id(host.memory(x)): host.memory(x) for x in tensors}
        new = [host.memory(x) for x in outputs if id(host.memory(x)) not in inputs]
        if tensors and all(memory.pinned for memory in inputs.values()):
            for memory in new:
                memory.pinned = True
        if changed or new or not outputs:  # otherwise a view, which accesses no memory
            host.enqueue([m for m in inputs.values() if m not in changed], [*changed, *new])
        return result


def _changed(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The arguments that an op writes, according to its schema."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [x for name in written for x in tree_flatten(given.get(name))[0] if isinstance(x, torch.Tensor)]


@contextmanager
def cuda_host(monkeypatch: Any, fail_at: int | None = None) -> Iterator[CudaHost]:
    """In the block torch.cuda is simulated, and new tensors are "on CUDA"."""
    host = CudaHost(fail_at)
    replacements: dict[str, Any] = {
        "Stream": host.fork,
        "Event": lambda **_: Event(host),
        "CUDAGraph": lambda: Graph(host),
        "stream": host.use,
        "current_stream": lambda *_: host.current,
        "synchronize": host.synchronize,
        "empty_cache": lambda: None,
        "graph_pool_handle": lambda: (0, 1),
        "default_generators": (host.generator,),
    }
    with monkeypatch.context() as patch, ExitStack() as modes:
        for name, value in replacements.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", host.end_allocate)
        patch.setattr(torch._C, "_cuda_releasePool", lambda _, pool: host.pools.remove(pool))
        modes.enter_context(_Accesses(host))
        modes.enter_context(_Functions(host))
        yield host
