"""What holds for every test."""

import os

import torch

os.fsync = lambda descriptor: None  # no test cuts the power, and a disk takes milliseconds to answer


def pytest_runtest_setup() -> None:
    """A test draws the same numbers whatever ran before it in its process."""
    torch.manual_seed(0)
