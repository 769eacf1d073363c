"""Shapes of the benchmarks and gates: ALBERT's published sizes at the token counts that one GPU trains on."""

from dataclasses import dataclass

from albert_fast.config import PRESETS


@dataclass(frozen=True)
class Shape:
    """Sizes of one layer and the number of tokens (rows) in its input."""

    name: str
    tokens: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int


TOKENS = (4096, 16384, 65536)  # 32, 128 and 512 sequences of 128
PUBLISHED = ("tiny", "base", "xlarge", "xxlarge")  # hidden sizes 312, 768, 2048 and 4096

SHAPES = [
    Shape(name, tokens, *(PRESETS[name][key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")))
    for name in PUBLISHED
    for tokens in TOKENS
]
