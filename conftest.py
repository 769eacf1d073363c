"""Runs before any test or bench module is imported."""

import os

# `make test` runs a process on each core: one thread in each, and in the processes that its tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # which reads it

# Triton decides at import of a kernel module whether it is interpreted (TRITON_INTERPRET is read once).
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
