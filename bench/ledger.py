"""python -m bench.ledger: predicted step time of several models and shapes on an H100, as one JSON list."""

from typing import Any

from albert_fast.cards import CARDS
from albert_fast.config import AlbertConfig, DataConfig, TrainConfig
from albert_fast.files import strict_json
from albert_fast.measure.predicted_time import step_spec
from albert_fast.measure.pricing import price

SHAPES = [("base", 65536, 128), ("base", 65536, 512), ("base", 16384, 128), ("base", 8192, 128),
          ("large", 65536, 128), ("xxlarge", 65536, 128)]  # fmt: skip


def row(preset: str, tokens: int, length: int, ffn: str) -> dict[str, Any]:
    """Totals of one step, and its seconds by class of op."""
    data = DataConfig(tokens_per_batch=tokens, max_seq_length=length)
    priced = price(step_spec(AlbertConfig.from_preset(preset), data, TrainConfig()), CARDS["h100"], ffn)
    step = dict(preset=preset, tokens_per_batch=tokens, max_seq_length=length, ffn=ffn)
    figures = {name: getattr(priced, name) for name in ("seconds", "mfu", "launches", "floor_seconds")}
    return {**step, **figures, "classes_seconds": priced.classes}


def main() -> None:
    rows = [row(*shape, ffn) for shape in SHAPES for ffn in ("library", "ours")]
    print(strict_json(rows, indent=1))


if __name__ == "__main__":
    main()
