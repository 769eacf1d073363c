"""What a run tells: a progress bar, RUN/metrics.jsonl, TensorBoard, and a plot of the losses."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from albert_fast.options import note

METRICS = "metrics.jsonl"


class MetricsLog:
    """Writes each log step to the progress bar, metrics.jsonl and TensorBoard; a context manager.

    Args:
        run: the run's folder.
        max_steps: where the bar ends.
        start_step: the step resumed from; lines of later steps, which will be made again, are dropped.
        visible: False on all ranks but one, where every call does nothing.
    """

    def __init__(self, run: Path, max_steps: int, start_step: int = 0, visible: bool = True):
        self.visible, self.started = visible, time.perf_counter()
        if not visible:
            return
        self.file = run / METRICS
        kept = [line for line in read_metrics(run) if line["step"] <= start_step] if self.file.exists() else []
        self.file.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.board = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start_step + 1)
        except ImportError:
            note("no tensorboard here: metrics go to metrics.jsonl alone; pip install 'albert_fast[tensorboard]'")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[shown]}"), console=Console(stderr=True))
        self.task = self.progress.add_task("steps", total=max_steps, completed=start_step, shown="")

    def __enter__(self) -> MetricsLog:
        if self.visible:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.visible:
            return
        self.progress.stop()
        if self.board is not None:
            self.board.close()

    def advance(self, step: int) -> None:
        if self.visible:
            self.progress.update(self.task, completed=step)

    def timed(self, metrics: dict[str, float]) -> dict[str, float]:
        """The metrics of a step with tokens_per_second since the last call in place of tokens."""
        now = time.perf_counter()
        rate = metrics["tokens"] / max(now - self.started, 1e-9)
        self.started = now
        return {**{name: value for name, value in metrics.items() if name != "tokens"}, "tokens_per_second": rate}

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics; held-out ones have names that begin with eval_."""
        if not self.visible:
            return
        with self.file.open("a") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")
        if self.board is not None:
            for name, value in metrics.items():
                group = "eval" if name.startswith("eval_") else "train"
                self.board.add_scalar(f"{group}/{name.removeprefix('eval_')}", value, step)
        held_out = [f"{name.removeprefix('eval_')} {v:.4f}" for name, v in metrics.items() if name.startswith("eval_")]
        if held_out:
            self.progress.console.print(f"step {step}: held out  {'  '.join(held_out)}")
        shown = "loss {loss:.3f}  mlm {mlm_loss:.3f}  sop {sop_loss:.3f}  {tokens_per_second:,.0f} tokens/s"
        self.progress.update(self.task, completed=step, shown=shown.format(**metrics))

    @contextmanager
    def paused(self):
        """Leave what happens inside (evaluation, saving) out of tokens_per_second."""
        begun = time.perf_counter()
        yield
        self.started += time.perf_counter() - begun


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl; a last line cut off by a crash is left out."""
    return [json.loads(text) for text in (Path(run) / METRICS).read_text().split("\n") if text.endswith("}")]


def plot_losses(run: Path, file: Path) -> None:
    """Draw the losses of a run, training and held out, over its steps."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines = read_metrics(run)
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, label in (
        ("mlm_loss", "masked words"),
        ("sop_loss", "sentence order"),
        ("eval_mlm_loss", "masked words, held out"),
    ):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 2 else None)
    axes.set(xlabel="step", ylabel="loss (nats)", title=f"Pretraining: {Path(run).name}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
