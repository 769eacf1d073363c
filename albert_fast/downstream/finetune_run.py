"""A fine-tuning run on disk: the best checkpoint, the state to resume from, metrics.jsonl and the progress bar."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from albert_fast.downstream.classifier import SETTINGS, AlbertForSequenceClassification, read_settings
from albert_fast.downstream.scores import warn_of_chance
from albert_fast.files import strict_json, write_json
from albert_fast.health import Health, IllRun
from albert_fast.metrics import MetricsLog
from albert_fast.optimizer import Optimizer
from albert_fast.options import UserError, another_run, check_unchanged, note
from albert_fast.pretrained import WEIGHTS, refuse_non_finite, save_config, save_tensors
from albert_fast.run import check_resume, own_folder

STATE = "training_state.safetensors"
MAX_SKIPPED = 25  # updates in a row that end the run
# Flags that may differ when a run goes on: none changes a bit of what it computes. Where the files lie is not compared
# but what is in them, by data_crc32c and model_crc32c.
_FREE = ("output", "resume", "save_steps", "logging_steps", "json", "baseline", "model", "train", "dev")

_CONTENTS = (("train", "other examples, or --dev does,", "data_crc32c"), ("model", "other weights", "model_crc32c"))


class FinetuneRun:
    """Where a run stands (step, best score, epochs since) and everything it leaves in `output`.

    output/ holds the best checkpoint so far, as `from_pretrained` loads it; finetune.json, the run's flags;
    metrics.jsonl; and while it lasts the state to resume from. Each file appears whole or not at all. A run that was
    killed and resumed ends with the same bits (on CPU) as one that was not.
    """

    def __init__(
        self, output: Path, model: AlbertForSequenceClassification, optimizer: Optimizer, settings: dict[str, Any],
        metric: str, patience: int,
    ):  # fmt: skip
        self.output, self.model, self.optimizer, self.settings = output, model, optimizer, settings
        self.metric, self.patience = metric, patience
        self.step, self.epochs_since_best = 0, 0
        self.best: dict[str, float] = {}  # the scores of the best epoch
        self.loss_sum = torch.zeros((), device=optimizer.exp_avg.device)
        self.tokens = self.since = 0
        self.log = MetricsLog(output, 0, visible=False)  # until the run has started
        self.ended = False

    @property
    def stopped(self) -> bool:
        """Whether the score has not risen for `patience` epochs."""
        return 0 < self.patience <= self.epochs_since_best

    @contextmanager
    def started(self, max_steps: int, resume: bool) -> Iterator[None]:
        """Opens or resumes the run around its loop."""
        check_resume(self.output, SETTINGS, resume)
        with own_folder(self.output):
            # Killed at its start, a run holds neither the state of its first step nor any weights.
            begun = any((self.output / name).is_file() for name in (STATE, WEIGHTS))
            self._resume() if resume and begun else self._create()
            self.health = Health(self.optimizer.config, MAX_SKIPPED, self.step, self._skipped(), note)
            with MetricsLog(self.output, max_steps, self.step, board=False) as self.log:
                yield

    def finish(self) -> None:
        """The run has reached its end: there is nothing left to resume."""
        (self.output / STATE).unlink()
        self.ended = True

    def report(self, as_json: bool, more: Mapping[str, float], signal: str) -> None:
        """Print the best epoch's scores beside chance and `more`, which are named figures to compare with.

        Where `signal` stopped the run before its end, say how to go on instead.
        """
        if not self.ended:
            print(f"step {self.step}: stopped by {signal}; go on with --resume; {self.output}")
            return
        warn_of_chance(self.best, "--dev")
        if as_json:
            print(strict_json({"steps": self.step, "output": str(self.output), **self.best, **more}))
            return
        reason = f" (no better for {self.patience} epochs)" if self.stopped else ""
        best = f"best {self.metric} on --dev {self.best[self.metric]:.4f}, epoch {self.best['epoch']}"
        best += f" (commonest class {self.best['commonest_class']:.4f})"
        best += "".join(f"; {name.replace('_', ' ')} {value:.4f}" for name, value in more.items())
        print(f"step {self.step}{reason}: {best}; {self.output}")

    def advance(self, loss: Tensor, tokens: int, logging_steps: int) -> None:
        """One step was taken; every `logging_steps` a line of metrics is written, the only wait for the device."""
        self.step += 1
        self.loss_sum += loss
        self.tokens, self.since = self.tokens + tokens, self.since + 1
        self.log.advance(self.step)
        if self.step % logging_steps == 0:
            values = {
                "loss": float(self.loss_sum) / self.since,
                "learning_rate": float(self.optimizer.last_learning_rate),
                "gradient_norm": float(self.optimizer.gradient_norm),
                "tokens": self.tokens,
            }
            timed = self.log.timed(values)
            timed.pop("tokens_seen", None)  # of this epoch's windows only
            self.log.write(self.step, timed)
            seen = {"skipped_updates": self._skipped(), "last_gradient_norm": values["gradient_norm"]}
            self.health.look_at_updates(self.step, values | seen)
            self.tokens = self.since = 0
            self.loss_sum.zero_()

    def evaluated(self, epoch: int, scores: dict[str, float]) -> bool:
        """Records the scores of an epoch and, where they are the best so far, saves the model; whether they are.

        Raises:
            IllRun: the loss is not finite; nothing is saved.
        """
        self.log.write(self.step, {"epoch": epoch, **{f"dev_{name}": value for name, value in scores.items()}})
        if not math.isfinite(scores["loss"]):
            raise IllRun(
                f"step {self.step}: the loss on --dev is {scores['loss']}, with {self._skipped()} of {self.step} "
                "updates skipped, their gradients not finite: the run diverged. Start again with a lower "
                "--learning_rate or --max_grad_norm 1; weights of a better epoch before this one stay"
            )
        is_best = scores[self.metric] > self.best.get(self.metric, -float("inf"))
        told = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.log.say(f"epoch {epoch}: dev {told}{'  (best)' if is_best else ''}")
        self.epochs_since_best = 0 if is_best else self.epochs_since_best + 1
        if is_best:
            self.best = {"epoch": epoch, **scores}
            flat = self.optimizer.flat
            save_tensors(flat.views(flat.master), self.output / WEIGHTS)
        return is_best

    def save(self) -> None:
        """Leave the state of now for --resume."""
        where = {
            "step": self.step,
            "best": self.best,
            "epochs_since_best": self.epochs_since_best,
            "since_last_line": [float(self.loss_sum), self.since, self.tokens],
        }
        with self.log.paused():
            save_tensors(self._tensors(), self.output / STATE, {"progress": json.dumps(where)})

    def _create(self) -> None:
        write_json(self.output / SETTINGS, self.settings)
        save_config(self.model.config, self.output)
        if self.model.tokenizer is not None:
            self.model.tokenizer.save(self.output)
        self.save()

    def _resume(self) -> None:
        held, before = self.output / STATE, read_settings(self.output)
        free = _FREE if "model_crc32c" in before else tuple(name for name in _FREE if name != "model")
        for name, what, checksum in _CONTENTS:
            if before.get(checksum, self.settings[checksum]) != self.settings[checksum]:
                raise another_run(name, self.settings[name], before[name], what)
        check_unchanged({name: value for name, value in self.settings.items() if name not in free}, before)
        if not held.is_file():
            raise UserError(f"output={self.output}: this run has ended; start another in another folder")
        self._load(held)
        note(f"resumed from {held} at step {self.step:,}")

    def _load(self, held: Path) -> None:
        own = self._tensors()
        try:
            with safe_open(held, "pt") as file:
                where, tensors = json.loads(file.metadata()["progress"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            self.step, self.best, self.epochs_since_best = where["step"], where["best"], where["epochs_since_best"]
        except Exception as error:  # safetensors raises its own kinds for a file that is cut or foreign
            raise UserError(f"{held} is damaged ({error}); start in another folder") from None
        if tensors.keys() != own.keys():
            raise UserError(f"{held} is not of this model; start in another folder")
        refuse_non_finite(tensors, held)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.optimizer.flat.cast()
        loss_sum, self.since, self.tokens = where.get("since_last_line", (0.0, 0, 0))
        self.loss_sum.fill_(loss_sum)

    def _tensors(self) -> dict[str, Tensor]:
        flat = self.optimizer.flat
        weights = {f"weight.{name}": view for name, view in flat.views(flat.master).items()}
        return weights | self.optimizer.state()

    def _skipped(self) -> int:
        return int(self.optimizer.steps - self.optimizer.updates)
