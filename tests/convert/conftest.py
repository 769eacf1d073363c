"""Fixtures of the conversion tests."""

import numpy as np
import pytest
from support.conversions import fixture

from albert_fast.convert.tensor_bundle import TensorBundle


@pytest.fixture
def recorded_variables() -> dict[str, np.ndarray]:
    bundle = TensorBundle(fixture("google")[0])
    return {name: bundle.read(name) for name in bundle.entries if not name.endswith(("adam_m", "adam_v"))}
