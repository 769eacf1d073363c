"""What holds for every test."""

import os
import signal
import subprocess

import pytest
import torch

# Tests are too small for several threads, which wait for each other, longest where other processes want the cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # and in the processes that tests start
# CUDA's products are asked to be deterministic in some tests: torch reads this once, at the first product of a process.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it, as would its own
os.fsync = lambda descriptor: None  # no test cuts the power, and a disk takes milliseconds to answer


def pytest_runtest_setup() -> None:
    """A test draws the same numbers whatever ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture
def small_disk(tmp_path):
    """The folder of a file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)
