"""Setup shared by all tests."""

import os
import signal
import subprocess

import pytest
import torch

# Tests are too small to profit from several threads, which would wait for each other when the machine is busy.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # also in processes that tests start
# Some tests need deterministic cuBLAS; torch reads this variable once, at the first product of a process.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell, and their children, ignore it
os.fsync = lambda descriptor: None  # no test cuts the power, and real fsync takes milliseconds


def pytest_runtest_setup() -> None:
    """Make a test's random numbers independent of the tests that ran before it in the process."""
    torch.manual_seed(0)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a 64 kB file system."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)
