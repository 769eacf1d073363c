from pathlib import Path

import pytest
import torch
from support.interpreter import corrected_interpreter


@pytest.fixture(autouse=True, scope="session")
def _corrected_interpreter():
    """Every kernel test interprets bf16 as hardware does (no effect where a GPU runs the kernels)."""
    with corrected_interpreter():
        yield


def pytest_collection_modifyitems(items):
    """Where there is a GPU kernels are compiled for it, and tests on CPU tensors cannot run them."""
    if torch.cuda.is_available():
        reason = "kernels are compiled here, not interpreted; CUDA_VISIBLE_DEVICES= pytest interprets them"
        for item in items:
            if Path(__file__).parent in item.path.parents and item.get_closest_marker("gpu") is None:
                item.add_marker(pytest.mark.skip(reason=reason))
