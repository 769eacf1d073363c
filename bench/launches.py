"""Records the kernel launches of a training run, with all arguments, instead of executing them; for any target.

Triton's own binder turns the arguments into a signature, so offline compilation sees the same dtypes, constants and
specializations as compilation on a GPU.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

os.environ.pop("TRITON_INTERPRET", None)  # compile kernels; must be unset before any of them is imported

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from albert_fast.kernels import arguments
from albert_fast.kernels.calls import Sizes, calls, empty, with_every_candidate
from albert_fast.kernels.candidates import targeting

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Launch:
    """One kernel with the specialization that Triton chooses for one target."""

    kernel: Any
    target: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.kernel.__module__.rpartition('.')[2]}.{self.kernel.__name__}"

    @property
    def named_constants(self) -> dict[str, Any]:
        """The constexpr parameters by name."""
        declared = {p.name for p in self.kernel.params if p.is_constexpr}
        names = self.kernel.arg_names
        return {names[at[0]]: value for at, value in self.constants.items() if names[at[0]] in declared}

    @property
    def config(self) -> str:
        first = next(re.findall(r"[*<](\w+)", t)[0] for t in self.signature.values() if t[0] in "*t")
        shown = [f"{name}={value}" for name, value in self.named_constants.items()]
        return " ".join([first, *shown, *(f"{name}={self.options[name]}" for name in ("num_warps", "num_stages"))])

    @property
    def key(self) -> str:
        signature = list(self.signature.items())
        return f"{self.name} {self.target} {signature} {self.constants} {self.attributes} {self.config}"

    def source(self) -> ASTSource:
        return ASTSource(self.kernel, self.signature, self.constants, self.attributes)


def _specialised(kernel: Any, target: str, arguments: tuple, keywords: dict[str, Any]) -> Launch:
    backend = make_backend(TARGETS[target])
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    keywords = {"debug": False, **keywords}
    bound, specialisation, options = bind(*arguments, **keywords)
    parsed, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialisation, options)
    return Launch(kernel, target, signature, constants, attributes, dict(parsed.__dict__))


@contextmanager
def recording(target: str) -> Iterator[list[Launch]]:
    """Yields a list that collects the launches in the block; none of them is executed."""
    launches: list[Launch] = []

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool = False, **keywords: Any) -> None:
        launches.append(_specialised(self, target, arguments, keywords))

    with patch.object(JITFunction, "run", run), targeting(target):
        yield launches


@contextmanager
def unlaunched() -> Iterator[None]:
    """In the block kernels accept CPU tensors and do nothing, so that an op runs its host code only."""
    with patch.object(arguments, "_INTERPRETED", True), patch.object(JITFunction, "run", lambda *_, **__: None):
        yield


def launches(target: str, sizes: Sizes, dtype: torch.dtype, every_candidate: bool) -> list[Launch]:
    """The distinct launches of a run at these sizes, by default or with every autotune candidate."""
    with recording(target) as recorded:
        for call in calls(sizes, dtype, empty("meta")):
            with_every_candidate(call.launch) if every_candidate else call.launch()
    return list({launch.key: launch for launch in recorded}.values())
