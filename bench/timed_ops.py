"""The ops that have a bench of their own: of the kernels' one list those with a file here, and three that are none."""

from pathlib import Path

from albert_fast.kernels import KERNELS

TIMED_KERNELS = tuple(name for name in KERNELS if Path(__file__).with_name(f"bench_{name}.py").exists())
OPS = (*TIMED_KERNELS, "attention", "optimizer", "step")
