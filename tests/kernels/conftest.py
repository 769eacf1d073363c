import pytest
from interpreter import corrected_interpreter


@pytest.fixture(autouse=True, scope="session")
def _corrected_interpreter():
    """Every kernel test interprets bf16 as hardware does (no effect where a GPU runs the kernels)."""
    with corrected_interpreter():
        yield
