"""The seed's size table is that of our models."""

import pytest

from albert_fast.config import AlbertConfig
from albert_fast.measure.sizes import seed_checkpoint_bytes


@pytest.mark.parametrize(
    ("embedding_size", "share_type", "megabytes"),
    [(768, "None", 476.5), (768, "attention", 372.4), (768, "ffn", 268.6), (768, "all", 164.6),
     (128, "None", 369.1), (128, "attention", 265.1), (128, "ffn", 161.2), (128, "all", 57.2)],
)  # fmt: skip
def test_sizes_of_the_seed(embedding_size, share_type, megabytes):
    config = AlbertConfig.from_preset("base", embedding_size=embedding_size, share_type=share_type)
    assert seed_checkpoint_bytes(config) / 1e6 == pytest.approx(megabytes, abs=0.1)
