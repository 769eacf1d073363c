"""How memory is shown: a column for what there is, megabytes of 10^6 bytes, and tensors by size."""

from pathlib import Path

from PIL import Image

from albert_fast.measure.memory_report import PARTS, activation_table, markdown_table, plot

ROW = {"share_type": "all", "ln_type": "preln", "measured_peak_bytes": None,
       **{f"{part}_bytes": 10**6 * (i + 1) for i, part in enumerate(PARTS)}, "peak_bytes": 15 * 10**6}  # fmt: skip
DETAIL = {"peak_phase": "backward", "saved_activations_bytes": 4_000_000, "largest_temporaries": [("qkv", 2_500_000)],
          "saved_activations": [{"tensor": "norm", "layers": 1, "bytes": 1_000_000},
                                {"tensor": "gelu", "layers": 2, "bytes": 3_000_000}]}  # fmt: skip


def test_a_row_is_a_line_and_columns_are_those_there_is_something_for() -> None:
    assert "| preln | all | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 15.0 | backward |" in markdown_table([ROW], [DETAIL], "tiny")
    run = {"peak_bytes": 16 * 10**6, "high_water_mark_bytes": 20 * 10**6, "step_seconds": 0.25}
    row = {**ROW, "recompute": "ffn", "measured_peak_bytes": run["peak_bytes"]}
    detail = {**DETAIL, "measured": run, "difference_percent": -6.25, "fit_bytes": 80 * 10**9,
              "fit_tokens_per_batch": 2048, "fit_peak_bytes": 79 * 10**9}  # fmt: skip
    table = markdown_table([row], [detail], "tiny")
    assert "| preln | all | ffn | 1.0 |" in table
    assert table.strip().endswith("| backward | 16.0 | -6.2% | 20.0 | 0.250 s | 2,048 | 79,000.0 |")
    assert "tokens in 80 GB" in table


def test_what_is_kept_for_backward_is_listed_largest_first() -> None:
    lines = activation_table(ROW, DETAIL).splitlines()
    assert lines[4:7] == [
        "| gelu | 2 | 1.5 | 3.0 | 75.0% |",
        "| norm | 1 | 1.0 | 1.0 | 25.0% |",
        "| all |  |  | 4.0 | 100% |",
    ]
    assert lines[-1] == "Largest temporaries at the peak (backward): qkv 2.5 MB"


def test_bars_are_drawn(tmp_path: Path) -> None:
    plot([ROW, {**ROW, "measured_peak_bytes": 16 * 10**6}], tmp_path / "a.png", "tiny")
    with Image.open(tmp_path / "a.png") as image:
        assert len(image.convert("RGB").getcolors(10**7)) > len(PARTS)
