"""Runs before any test or bench module is imported."""

import os

import torch

# Triton decides at import of a kernel module whether it is interpreted (TRITON_INTERPRET is read once).
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
