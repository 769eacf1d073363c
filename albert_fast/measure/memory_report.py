"""Output of `albert-fast memory`: Markdown tables and stacked bars."""

from pathlib import Path
from typing import Any

from albert_fast.figures import save_figure, subplots
from albert_fast.text_tables import markdown_lines

PARTS = ("parameters", "gradients", "optimizer", "activations", "temporaries")
MEGABYTE = 1e6


def markdown_table(rows: list[dict[str, Any]], details: list[dict[str, Any]], title: str) -> str:
    """Table with one line per row, in MB of 10^6 bytes; columns for measurement, fit and time if present."""
    columns = ["ln_type", "share_type", *(["recompute"] if "recompute" in rows[0] else []), *PARTS, "peak", "peak in"]
    measured, fitted = any(row["measured_peak_bytes"] for row in rows), "fit_bytes" in details[0]
    columns += ["measured", "difference", "high-water mark", "step"] if measured else []
    columns += [f"tokens in {details[0]['fit_bytes'] / 1e9:g} GB", "peak then"] if fitted else []
    lines = []
    for row, detail in zip(rows, details, strict=True):
        cells = [row["ln_type"], row["share_type"], *([row["recompute"]] if "recompute" in row else [])]
        cells += [_megabytes(row[f"{part}_bytes"]) for part in (*PARTS, "peak")] + [detail["peak_phase"]]
        if measured:
            run = detail["measured"]
            cells += [_megabytes(run["peak_bytes"]), f"{detail['difference_percent']:+.1f}%"]
            cells += [_megabytes(run.get("high_water_mark_bytes") or run.get("captured_reserved_bytes"))]
            cells += [f"{run['step_seconds']:.3f} s"]
        if fitted:
            most = detail["fit_tokens_per_batch"]
            cells += ["nothing fits", ""] if most is None else [f"{most:,}", _megabytes(detail["fit_peak_bytes"])]
        lines.append(cells)
    table = markdown_lines(columns, "r" * len(columns), lines)
    return "\n".join([f"### {title} (MB of 10^6 bytes)", "", *table]) + "\n"


def activation_table(row: dict[str, Any], detail: dict[str, Any]) -> str:
    """Activations saved for backward, by tensor, largest first, and the largest temporaries at the peak."""
    title = f"share_type {row['share_type']}, {row['ln_type']}" + (f", recompute {row.get('recompute', 'none')}")
    total = max(detail["saved_activations_bytes"], 1)
    rows = []
    for item in sorted(detail["saved_activations"], key=lambda item: -item["bytes"]):
        each = _megabytes(item["bytes"] / item["layers"])
        share = f"{100 * item['bytes'] / total:.1f}%"
        rows.append((item["tensor"], str(item["layers"]), each, _megabytes(item["bytes"]), share))
    rows.append(("all", "", "", _megabytes(total), "100%"))
    table = markdown_lines(("tensor", "layers", "MB a layer", "MB", "share"), "lrrrr", rows)
    lines = [f"#### Kept for backward: {title}", "", *table]
    largest = ", ".join(f"{name} {_megabytes(size)} MB" for name, size in detail["largest_temporaries"])
    return "\n".join(lines) + f"\n\nLargest temporaries at the peak ({detail['peak_phase']}): {largest or 'none'}\n"


def plot(rows: list[dict[str, Any]], file: Path, title: str) -> None:
    """One stacked bar per row, with the measured peak as a marker if present."""
    labels = ["\n".join(str(row[key]) for key in ("share_type", "ln_type", "recompute") if key in row) for row in rows]
    figure, axes = subplots(width=max(6.0, 1.1 * len(rows) + 2))
    bottom = [0.0] * len(rows)
    for part in PARTS:
        heights = [row[f"{part}_bytes"] / MEGABYTE for row in rows]
        axes.bar(range(len(rows)), heights, bottom=bottom, label=part, width=0.7)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    marks = [(i, row["measured_peak_bytes"] / MEGABYTE) for i, row in enumerate(rows) if row["measured_peak_bytes"]]
    if marks:
        axes.plot(*zip(*marks, strict=True), "k_", markersize=28, label="measured peak")
    axes.set_xticks(range(len(rows)), labels)
    axes.set(ylabel="MB (10^6 bytes)", title=title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the bars, so that it hides none
    axes.grid(axis="y", alpha=0.3)
    save_figure(figure, file)


def _megabytes(size: float | None) -> str:
    return "" if size is None else f"{size / MEGABYTE:,.1f}"
