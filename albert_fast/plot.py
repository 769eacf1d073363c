"""`albert-fast plot RUN...`: curves of one or more runs from their metrics.jsonl, in one PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_fast.figures import save_figure, subplots
from albert_fast.metrics import METRICS, read_metrics
from albert_fast.options import Options, UserError, option

# For each panel: its title, and its metrics with their line styles (dashed for held-out metrics).
PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("loss (nats)", (("mlm_loss", "-"), ("sop_loss", ":"), ("eval_mlm_loss", "--"), ("loss", "-"), ("dev_loss", "--"))),
    ("accuracy", (("mlm_accuracy", "-"), ("sop_accuracy", ":"), ("eval_mlm_accuracy", "--"), ("dev_accuracy", "--"))),
    ("learning rate", (("learning_rate", "-"),)),
    ("tokens/s", (("tokens_per_second", "-"),)),
)


@dataclass(frozen=True, kw_only=True)
class PlotOptions(Options):
    """Runs to plot and the output file."""

    runs: tuple[str, ...] = option(help="folders of pretraining or fine-tuning runs", positional=True)
    output: str = option("runs.png", "PNG file to write", metavar="FILE")


def plot(options: PlotOptions) -> None:
    """Plot loss, accuracy, learning rate and throughput of one or more runs over their steps."""
    draw_runs([Path(run) for run in options.runs], Path(options.output))
    print(options.output)


def draw_runs(runs: Sequence[Path], file: Path) -> None:
    """Draw the panels, with a colour for each run and a line style for each metric.

    Raises:
        UserError: a folder has no metrics yet.
    """
    lines = {run: _lines(run) for run in runs}
    figure, axes = subplots(2, 2, width=12, height=7.5)
    for panel, (title, shown) in zip(axes.flat, PANELS, strict=True):
        for colour, run in enumerate(runs):
            if any(name.startswith("mlm") and name in line for line in lines[run] for name, _ in shown):
                shown = tuple(entry for entry in shown if entry[0] != "loss")  # the sum of mlm_loss and sop_loss
            for name, style in shown:
                points = [(line["step"], line[name]) for line in lines[run] if line.get(name) is not None]
                if points:
                    label = " ".join([*([run.name] if len(runs) > 1 else []), name.replace("_", " ")])
                    marker = "o" if len(points) < 3 else None
                    panel.plot(*zip(*points, strict=True), style, color=f"C{colour}", marker=marker, label=label)
        panel.set(xlabel="step", title=title)
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize=8)
    save_figure(figure, file)


def _lines(run: Path) -> list[dict[str, Any]]:
    lines = read_metrics(run) if (run / METRICS).is_file() else []
    if not lines:
        raise UserError(f"{run} has no {METRICS} with steps; give the folder of a run (--output of pretrain)")
    return lines
