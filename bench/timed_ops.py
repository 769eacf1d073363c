"""Ops with a benchmark of their own: the kernels that have a bench_NAME.py here, and three that are not kernels."""

from pathlib import Path

from albert_fast.kernels import KERNELS

TIMED_KERNELS = tuple(name for name in KERNELS if Path(__file__).with_name(f"bench_{name}.py").exists())
OPS = (*TIMED_KERNELS, "attention", "optimizer", "step")
