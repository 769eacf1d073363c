"""python -m bench.ledger: the step of several models and shapes priced for an H100, as one JSON list."""

from typing import Any

import torch

from albert_fast.cards import CARDS
from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.files import strict_json
from albert_fast.measure.pricing import price
from albert_fast.measure.step_spec import StepSpec

SHAPES = [("base", 65536, 128), ("base", 65536, 512), ("base", 16384, 128), ("base", 8192, 128),
          ("large", 65536, 128), ("xxlarge", 65536, 128)]  # fmt: skip


def row(preset: str, tokens: int, length: int, ffn: str) -> dict[str, Any]:
    """The totals and classes of one step."""
    spec = StepSpec(
        config=AlbertConfig.from_preset(preset),
        tokens_per_batch=tokens,
        max_seq_length=length,
        train=TrainConfig(capture="off"),
        target="cuda",
        dtype=torch.bfloat16,
    )
    priced = price(spec, CARDS["h100"], ffn)
    return {
        "preset": preset,
        "tokens_per_batch": tokens,
        "max_seq_length": length,
        "ffn": ffn,
        "seconds": priced.seconds,
        "mfu": priced.mfu,
        "launches": priced.launches,
        "floor_seconds": priced.floor_seconds,
        "classes_seconds": priced.classes,
    }


def main() -> None:
    rows = [row(*shape, ffn) for shape in SHAPES for ffn in ("library", "ours")]
    print(strict_json(rows, indent=1))


if __name__ == "__main__":
    main()
