"""The log of a run: a progress bar or plain lines, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from albert_fast.files import append_line, strict_json, write_file, writing
from albert_fast.options import UserError, note

METRICS = "metrics.jsonl"
# The metrics shown in the progress bar or line, and their formats.
SHOWN = {
    "loss": "loss {:.3f}",
    "mlm_loss": "mlm {:.3f}",
    "sop_loss": "sop {:.3f}",
    "learning_rate": "rate {:.3g}",
    "tokens_per_second": "{:,.0f} tokens/s",
}


class MetricsLog:
    """Context manager that writes metrics to the progress bar, metrics.jsonl and, optionally, TensorBoard.

    If standard error is not a terminal, plain lines replace the bar.

    Args:
        run: the run's folder.
        max_steps: the end of the bar.
        start_step: the step resumed from; lines of later steps are dropped because those steps are repeated.
        visible: False makes every call do nothing; True on one rank only.
        board: whether to write TensorBoard logs.
    """

    def __init__(self, run: Path, max_steps: int, start_step: int = 0, visible: bool = True, board: bool = True):
        self.visible, self.step, self.max_steps = visible, start_step, max_steps
        self.clock, self.clock_step, self.seconds_per_step = time.perf_counter(), start_step, 0.0
        self.tokens_seen: float | None = 0
        if not visible:
            return
        self.file, self.board = run / METRICS, None
        lines = [line for line in read_metrics(run) if line["step"] <= start_step] if self.file.exists() else []
        write_file(self.file, "".join(strict_json(line) + "\n" for line in lines))
        if lines:
            self.tokens_seen = lines[-1].get("tokens_seen")
        if board:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start_step + 1)
            except ImportError:
                note("metrics go to metrics.jsonl only; for TensorBoard, pip install 'albert_fast[tensorboard]'")
        self.console = Console(stderr=True)
        columns = (TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[shown]}"), console=self.console)
        self.task = self.progress.add_task("", total=max_steps, completed=start_step, shown="")

    def __enter__(self) -> MetricsLog:
        if self.visible and self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.visible:
            self.progress.stop()
            if self.board is not None:
                with writing(self.file.with_name("tensorboard")):
                    self.board.close()

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self.step = step
        if self.visible:
            self.progress.update(self.task, completed=step)

    def timed(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Replace "tokens" in the metrics with tokens_per_second since the last call and tokens_seen."""
        now, tokens = time.perf_counter(), metrics["tokens"]
        rate = tokens / max(now - self.clock, 1e-9)
        self.seconds_per_step = (now - self.clock) / max(self.step - self.clock_step, 1)
        self.clock, self.clock_step = now, self.step
        timed = {**{name: value for name, value in metrics.items() if name != "tokens"}, "tokens_per_second": rate}
        if self.tokens_seen is not None:
            self.tokens_seen += tokens
            timed["tokens_seen"] = int(self.tokens_seen)
        return timed

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write a line of metrics; eval_* are held-out metrics, and mappings (one value per tensor) are not shown.

        Raises:
            UserError: the file, named in the message, could not be written.
        """
        if not self.visible:
            return
        append_line(self.file, strict_json({"step": step, **metrics}))
        if self.board is not None:
            with writing(self.file.with_name("tensorboard")):
                for name, value in metrics.items():
                    group = "eval" if name.startswith("eval_") else "train"
                    scalars = {f"{group}/{name.removeprefix('eval_')}": value}
                    if isinstance(value, Mapping):
                        scalars = {f"{name}/{tensor}": ratio for tensor, ratio in value.items()}
                    for tag, scalar in scalars.items():
                        self.board.add_scalar(tag, scalar, step)
        held_out = [f"{name.removeprefix('eval_')} {v:.4f}" for name, v in metrics.items() if name.startswith("eval_")]
        if held_out:
            self.say(f"step {step}: held-out  {'  '.join(held_out)}")
        if shown := "  ".join(form.format(metrics[name]) for name, form in SHOWN.items() if name in metrics):
            self.progress.update(self.task, completed=step, shown=shown)
            if not self.console.is_terminal:
                left = _duration((self.max_steps - step) * self.seconds_per_step)
                self.say(f"step {step:,} of {self.max_steps:,}  {shown}  {left} left")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.visible:
            self.console.print(text, soft_wrap=True, highlight=False, markup=False)
            self.console.file.flush()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent inside (evaluation, saving) from tokens_per_second."""
        begun = time.perf_counter()
        yield
        self.clock += time.perf_counter() - begun


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl, except a last line truncated by a crash.

    Raises:
        UserError: any other line is damaged.
    """
    file = Path(run) / METRICS
    lines = []
    for number, text in enumerate(file.read_bytes().split(b"\n")[:-1], 1):  # the rest is truncated
        if not text:
            continue
        try:
            line = json.loads(text)
            int(line["step"])
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{file}, line {number}: is not a line of metrics; remove it to continue") from None
        lines.append(line)
    return lines


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1.5 else f"{minutes:.0f} min" if minutes >= 1.5 else f"{seconds:.0f} s"
