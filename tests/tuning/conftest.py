"""What holds for every test of tuning."""

import pytest
from support.interpreter import corrected_interpreter

from albert_fast.ops import get_ops


@pytest.fixture(autouse=True, scope="session")
def _corrected_interpreter():
    """The candidates are registered, and interpreted as hardware computes (no effect where a GPU runs them)."""
    get_ops("triton")
    with corrected_interpreter():
        yield
