"""Reports of a priced step: Markdown tables, and stacked bars of its op classes for several models."""

from pathlib import Path

from albert_fast.figures import save_figure, subplots
from albert_fast.measure.pricing import Priced
from albert_fast.text_tables import markdown_lines

# Published runs of eager PyTorch take this much longer than priced by the same rule (bench/calibration.py), which
# ignores gaps between kernels and power throttling.
PUBLISHED_MISS = 1.28


def ledger_table(priced: Priced, title: str, rows: int) -> str:
    """The most expensive `rows` rows, the classes and the totals of a step."""
    milliseconds = 1000 * priced.seconds
    lines = [
        f"### {title}",
        "",
        f"{milliseconds:.1f} ms a step, {priced.tokens_per_second:,.0f} tokens/s, MFU {100 * priced.mfu:.1f}%, "
        f"{priced.launches:,} launches; {1000 * priced.floor_seconds:.1f} ms with perfect fusion.",
        f"A lower bound: published eager steps take about {PUBLISHED_MISS:.1f} times as long as priced here.",
        "",
    ]
    classes = ((k, f"{1000 * s:.2f}", f"{100 * s / priced.seconds:.1f}%") for k, s in priced.classes.items())
    lines += [*markdown_lines(("class", "ms", "share"), "lrr", classes), ""]
    shown = [
        (row.phase, row.op, f"{row.count:,}", f"{row.bytes / 1e9:.2f}", f"{row.flops / 1e12:.2f}", f"{row.launches:,}",
         f"{1000 * row.seconds:.3f}", f"{100 * row.seconds / priced.seconds:.1f}%", row.bound)
        for row in priced.rows[:rows]
    ]  # fmt: skip
    if others := priced.rows[rows:]:
        left = sum(row.seconds for row in others)
        count, launches = sum(row.count for row in others), sum(row.launches for row in others)
        shown.append(("", f"{len(others)} smaller rows", f"{count:,}", "", "", f"{launches:,}", f"{1000 * left:.3f}",
                      f"{100 * left / priced.seconds:.1f}%", ""))  # fmt: skip
    head = ("phase", "part: op", "count", "GB", "TFLOP", "launches", "ms", "share", "bound")
    return "\n".join([*lines, *markdown_lines(head, "llrrrrrrl", shown)]) + "\n"


def plot_classes(steps: dict[str, Priced], file: Path, title: str) -> None:
    """One stacked bar per model: share of each op class in the step, with tokens/s and MFU above."""
    labels, priced = list(steps), list(steps.values())
    figure, axes = subplots(width=max(7.0, 0.9 * len(labels) + 3))
    bottom = [0.0] * len(labels)
    for name in priced[0].classes:
        heights = [100 * p.classes[name] / p.seconds for p in priced]
        axes.bar(range(len(labels)), heights, bottom=bottom, label=name, width=0.7)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for i, (top, p) in enumerate(zip(bottom, priced, strict=True)):
        speed = f"{p.tokens_per_second / 1e3:,.0f}k/s\nMFU {100 * p.mfu:.0f}%"
        axes.text(i, top, speed, ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set(ylabel="share of the step, %", title=title)
    axes.set_ylim(top=1.12 * max(bottom))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(axis="y", alpha=0.3)
    save_figure(figure, file)
