"""State of a fine-tuning run: best checkpoint, resumable training state, metrics.jsonl and progress bar."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from albert_fast.downstream.classifier import SETTINGS, AlbertForSequenceClassification, read_settings
from albert_fast.downstream.scores import warn_of_chance
from albert_fast.files import strict_json, write_json, writing
from albert_fast.health import Health, RunFailure
from albert_fast.metrics import MetricsLog
from albert_fast.optimizer import Optimizer
from albert_fast.options import UserError, changed_setting, check_unchanged, note
from albert_fast.pretrained import WEIGHTS, refuse_non_finite, save_config, save_tensors
from albert_fast.run import check_resume, own_folder

STATE = "training_state.safetensors"
MAX_SKIPPED = 25  # consecutive skipped updates that end the run
# Flags that may change on resume because they do not affect the results. Files are compared by content instead of path,
# through data_crc32c and model_crc32c.
_FREE = ("output", "resume", "save_steps", "logging_steps", "json", "baseline", "model", "train", "dev")

_CONTENTS = (("train", "other examples, or --dev does,", "data_crc32c"), ("model", "other weights", "model_crc32c"))


def check_output(output: Path, resume: bool) -> None:
    """UserError if `output` does not suit `resume` or cannot be written; creates nothing."""
    with writing(output):
        check_resume(output, SETTINGS, resume)
        existing = next(folder for folder in (output, *output.parents) if folder.exists())
        TemporaryFile(dir=existing).close()


class FinetuneRun:
    """Progress of a run (step, best scores, epochs since then) and the files it writes.

    output/ holds the best checkpoint so far, which `from_pretrained` loads; finetune.json with the run's flags;
    metrics.jsonl; and, until the run ends, the training state to resume from. Every file is written atomically. A run
    that was killed and resumed is bitwise identical (on CPU) to an uninterrupted one.
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
        """Whether the score has not improved for `patience` epochs."""
        return 0 < self.patience <= self.epochs_since_best

    @contextmanager
    def started(self, max_steps: int, resume: bool) -> Iterator[None]:
        """Start or resume the run; the training loop runs inside this context."""
        check_resume(self.output, SETTINGS, resume)
        with own_folder(self.output):
            # A run killed while starting has neither a training state nor weights yet.
            begun = any((self.output / name).is_file() for name in (STATE, WEIGHTS))
            self._resume() if resume and begun else self._create()
            self.health = Health(self.optimizer.config, MAX_SKIPPED, self.step, self._skipped(), note)
            with MetricsLog(self.output, max_steps, self.step, board=False) as self.log:
                yield

    def finish(self) -> None:
        """Mark the run as complete and remove its training state."""
        (self.output / STATE).unlink()
        self.ended = True

    def report(self, as_json: bool, more: Mapping[str, float], signal: str) -> None:
        """Print the best scores with the majority-class accuracy and the reference scores in `more`.

        If `signal` interrupted the run, print how to resume instead.
        """
        if not self.ended:
            print(f"step {self.step}: stopped by {signal}; resume with --resume; {self.output}")
            return
        warn_of_chance(self.best, "--dev")
        if as_json:
            print(strict_json({"steps": self.step, "output": str(self.output), **self.best, **more}))
            return
        reason = f" (no improvement for {self.patience} epochs)" if self.stopped else ""
        best = f"best {self.metric} on --dev {self.best[self.metric]:.4f}, epoch {self.best['epoch']}"
        best += f" (majority class {self.best['commonest_class']:.4f})"
        best += "".join(f"; {name.replace('_', ' ')} {value:.4f}" for name, value in more.items())
        print(f"step {self.step}{reason}: {best}; {self.output}")

    def advance(self, loss: Tensor, tokens: int, logging_steps: int) -> None:
        """Count a step and log metrics every `logging_steps`, which is the only synchronisation with the device."""
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
            timed.pop("tokens_seen", None)  # would count only logged steps
            self.log.write(self.step, timed)
            seen = {"skipped_updates": self._skipped(), "last_gradient_norm": values["gradient_norm"]}
            self.health.check_updates(self.step, values | seen)
            self.tokens = self.since = 0
            self.loss_sum.zero_()

    def evaluated(self, epoch: int, scores: dict[str, float]) -> bool:
        """Log the scores of an epoch and save the weights if they are the best so far; return whether they are.

        Raises:
            RunFailure: the loss is not finite; nothing is saved.
        """
        self.log.write(self.step, {"epoch": epoch, **{f"dev_{name}": value for name, value in scores.items()}})
        if not math.isfinite(scores["loss"]):
            raise RunFailure(
                f"step {self.step}: the loss on --dev is {scores['loss']}, with {self._skipped()} of {self.step} "
                "updates skipped for non-finite gradients: the run diverged. Start again with a lower --learning_rate "
                "or --max_grad_norm 1; the weights of an earlier best epoch are kept"
            )
        is_best = scores[self.metric] > self.best.get(self.metric, -float("inf"))
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.log.say(f"epoch {epoch}: dev {shown}{'  (best)' if is_best else ''}")
        self.epochs_since_best = 0 if is_best else self.epochs_since_best + 1
        if is_best:
            self.best = {"epoch": epoch, **scores}
            flat = self.optimizer.flat
            save_tensors(flat.views(flat.master), self.output / WEIGHTS)
        return is_best

    def save(self) -> None:
        """Save the training state for --resume."""
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
                raise changed_setting(name, self.settings[name], before[name], what)
        check_unchanged({name: value for name, value in self.settings.items() if name not in free}, before)
        if not held.is_file():
            raise UserError(f"output={self.output}: this run is complete; start another one in a new folder")
        self._load(held)
        note(f"resumed from {held} at step {self.step:,}")

    def _load(self, held: Path) -> None:
        own = self._tensors()
        try:
            with safe_open(held, "pt") as file:
                where, tensors = json.loads(file.metadata()["progress"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            self.step, self.best, self.epochs_since_best = where["step"], where["best"], where["epochs_since_best"]
        except Exception as error:  # safetensors has its own exception types
            raise UserError(f"{held} is damaged ({error}); start again in a new folder") from None
        if tensors.keys() != own.keys():
            raise UserError(f"{held} belongs to another model; start again in a new folder")
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
