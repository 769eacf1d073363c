"""A checkpoint with a few arrays, and the error message for a damaged one."""

from pathlib import Path

import numpy as np
import pytest

from albert_fast.convert.tensor_bundle import TensorBundle
from albert_fast.options import UserError


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    tensors: dict[str, np.ndarray] = {
        f"bert/layer_{i}/kernel": generator.normal(size=(i, 3)).astype(np.float32) for i in range(60)
    }
    tensors["double"] = generator.normal(size=(2, 2))
    tensors["half"] = generator.normal(size=5).astype(np.float16)
    tensors["global_step"] = np.array(2**40, np.int64)
    return tensors


def refusal(prefix: Path, *words: str) -> str:
    """The message of the UserError raised by opening or verifying, which must contain each of `words`."""
    with pytest.raises(UserError) as error:
        TensorBundle(prefix).verify()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message
