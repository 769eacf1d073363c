"""A priced step as tables and bars: rows left out are summed, and shares are those of the step."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from albert_fast.cards import CARDS
from albert_fast.measure.ledger_report import ledger_table, plot_classes
from albert_fast.measure.pricing import CLASSES, LAUNCHES, Priced, Row

ROWS = [Row("forward", "head: mm", 2, 10**9, 10**12, 2, 0.006, "FLOPs", "product"),
        Row("backward", "add", 1, 2 * 10**9, 0, 1, 0.003, "memory", "memory"),
        Row("update", "mul", 1, 10**9, 0, 4, 0.001, "launch", "memory")]  # fmt: skip
PRICED = Priced(CARDS["h100"], 0.01, 102_400, 0.41, 7, 0.008, ROWS,
                dict(zip((*CLASSES.values(), LAUNCHES), (0.006, 0.0, 0.0, 0.0035, 0.0005), strict=True)))  # fmt: skip


def test_the_table_has_the_totals_the_classes_and_the_dearest_rows() -> None:
    table = ledger_table(PRICED, "a step", rows=1)
    assert "10.0 ms a step, 102,400 tokens/s, MFU 41.0%, 7 launches; 8.0 ms with" in table
    assert "| products | 6.00 | 60.0% |" in table
    assert "| forward | head: mm | 2 | 1.00 | 1.00 | 2 | 6.000 | 60.0% | FLOPs |" in table
    assert "|  | 2 smaller rows | 2 |  |  | 5 | 4.000 | 40.0% |  |" in table
    assert "smaller rows" not in ledger_table(PRICED, "a step", rows=3)


def test_bars_of_several_models_are_drawn(tmp_path: Path) -> None:
    plot_classes({"one": PRICED, "two": replace(PRICED, mfu=0.2)}, tmp_path / "a.png", "two steps")
    with Image.open(tmp_path / "a.png") as image:
        assert len(image.convert("RGB").getcolors(10**7)) > len(PRICED.classes)
