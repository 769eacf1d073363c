"""The machine that a benchmark ran on, and its measured rates: copy bandwidth and matrix-multiply throughput."""

import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
# Dense peak FLOP/s from NVIDIA's data sheets: (bf16 tensor cores, fp32 CUDA cores without TF32).
PEAK_FLOPS = {"H100": (989e12, 67e12), "H200": (989e12, 67e12), "A100": (312e12, 19.5e12), "B200": (2250e12, 75e12)}


def describe(device: str | None = None) -> dict[str, Any]:
    """Device, driver, package versions and git commit, as stored in every result file."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    names = ("torch", "triton", "numpy", "transformers", "liger-kernel", "albert-fast")
    installed = {name: next(iter(Distribution.discover(name=name)), None) for name in names}
    described: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "kind": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: found.version for name, found in installed.items() if found},
        "git": _output("git", "rev-parse", "--short=12", "HEAD")
        + ("+changes" if _output("git", "status", "--porcelain") else ""),
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    if device == "cuda":
        driver = (
            _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0] or "unknown"
        )
        described |= {"driver": driver, "cuda": torch.version.cuda, "memory_bytes": torch.cuda.mem_get_info()[1]}
    return described


def slug(described: dict[str, Any]) -> str:
    """File name for results of this device, such as nvidia-h100-80gb-hbm3 or amd-epyc-2-threads."""
    name = described["device"] + ("" if described["kind"] == "cuda" else f" {described['threads']} threads")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return " ".join((names[0] if names else platform.processor() or platform.machine()).split())


def _output(*command: str) -> str:
    """Standard output of a command run in the repository; "" if it fails or is not installed."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def peak_flops(dtype: torch.dtype) -> float | None:
    """Data-sheet FLOP/s of this GPU, for MFU; None for CPUs and unknown GPUs."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((p[0 if dtype == torch.bfloat16 else 1] for card, p in PEAK_FLOPS.items() if card in name), None)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], times: int = 5, warm_up: int = 2) -> float:
    """Median seconds of a synchronized call of `run`."""
    for _ in range(warm_up):
        run()
    synchronize()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def copy_bandwidth(device: str) -> float:
    """Bytes per second of a 256 MiB copy, counting bytes read plus bytes written."""
    source = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source))


def product(kind: str, rows: int, columns: int, inner: int, device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    """torch.mm of [rows, inner] x [inner, columns] with the memory layout of a training step.

    Args:
        kind: forward (x @ W.t()), data (grad @ W) or weight (grad.t() @ x).
    """
    shapes = {
        "forward": ((rows, inner), (columns, inner)),
        "data": ((rows, inner), (inner, columns)),
        "weight": ((inner, rows), (inner, columns)),
    }[kind]
    a, b = (torch.randn(shape, device=device, dtype=dtype) for shape in shapes)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    left, right = (a.t() if kind == "weight" else a), (b.t() if kind == "forward" else b)
    return lambda: torch.mm(left, right, out=out)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square torch.mm."""
    size = 8192 if device == "cuda" else 1536
    return 2 * size**3 / seconds(product("forward", size, size, size, device, dtype))
