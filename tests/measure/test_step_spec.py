"""The step of a target is built on the meta device, wherever that is asked."""

import os
import subprocess
import sys


def test_predicting_for_cuda_needs_neither_a_gpu_nor_the_interpreter():
    """In a process that has imported Triton without TRITON_INTERPRET, as one that has trained has."""
    code = (
        "import triton; from albert_fast.cli import main; "
        "main(['memory', '--config=tiny', '--share_type=all', '--ln_type=postln', '--tokens_per_batch=1024'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
