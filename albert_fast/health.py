"""Run health: checks the metrics already read for the log and reports each problem once."""

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from albert_fast.config import TrainConfig
from albert_fast.data.batches import Batch
from albert_fast.options import UserError

MARGIN = 0.3  # nats; a smaller rise above the best mean loss is not reported
CHANCE = 0.53  # sentence-order accuracy below this is guessing
SMOOTHED, SMOOTHED_STEPS = 5, 50  # a mean loss covers at least so many log lines and steps
COUNTED = 100_000  # masked tokens that the token frequencies are estimated from


class RunFailure(UserError):
    """The run cannot continue: exit code 3."""

    exit_code = 3


class Health:
    """Watches one run.

    Args:
        train: gives max_steps and warmup_steps.
        max_skipped: consecutive skipped updates that end the run.
        step, skipped: the step that the run starts after, and the number of updates skipped before it.
        say: called with each note, once per kind.
    """

    def __init__(self, train: TrainConfig, max_skipped: int, step: int, skipped: int, say: Callable[[str], None]):
        self.train, self.max_skipped, self.say = train, max_skipped, say
        self.start = max(step, train.warmup_steps)
        self.step, self.skipped, self.consecutive = step, skipped, 0  # as of the last log line
        self.reported: set[str] = set()
        self.recent: deque[tuple[int, float]] = deque()  # (step of the previous line, loss) of lines in the mean
        self.best = math.inf
        self.best_step = self.diverging_since = step
        self.lines: deque[tuple[int, dict[str, float]]] = deque()
        self.counts = np.zeros(0, np.int64)  # how often each id was a target

    def counting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches through and counts the target tokens of the first ones (on the host)."""
        for batch in batches:
            if self.counts.sum() < COUNTED:
                counts = np.bincount(batch.masked_lm_ids[: batch.num_predictions], minlength=len(self.counts))
                counts[: len(self.counts)] += self.counts
                self.counts = counts
            yield batch

    def check(self, step: int, metrics: dict[str, float]) -> None:
        """Check one line of metrics, which covers the steps since the last and is the same on every rank.

        Raises:
            RunFailure: `max_skipped` or more consecutive updates were skipped.
        """
        before = self.step
        self.check_updates(step, metrics)
        if math.isfinite(metrics["loss"]):
            self._check_divergence(before, step, metrics["loss"])
            self._check_chance(step, metrics)

    def check_updates(self, step: int, metrics: dict[str, float]) -> None:
        """The part of `check` that needs only skipped_updates, last_gradient_norm and learning_rate."""
        steps, self.step = step - self.step, step
        skipped, self.skipped = int(metrics["skipped_updates"]) - self.skipped, int(metrics["skipped_updates"])
        if skipped >= steps:
            self.consecutive += skipped
        else:  # a streak of skipped updates continues only if the last gradient is not finite either
            self.consecutive = skipped if not math.isfinite(metrics["last_gradient_norm"]) else 0
        if self.consecutive >= self.max_skipped:
            first = step - self.consecutive + 1
            raise RunFailure(
                f"step {step}: the last {self.consecutive} updates were skipped for non-finite gradients; first step "
                f"{first}, gradient norm {metrics['last_gradient_norm']:g}, learning rate "
                f"{metrics['learning_rate']:.3g}. Resume from a checkpoint before step {first} or start over with a "
                "lower --learning_rate, a longer --warmup_steps, --max_grad_norm 1 or --precision fp32"
            )
        if skipped:
            self._once("skipped", f"step {step}: {skipped} of {steps} updates were skipped for non-finite gradients")

    def _check_divergence(self, before: int, step: int, loss: float) -> None:
        self.recent.append((before, loss))
        while len(self.recent) > SMOOTHED and self.recent[1][0] <= step - SMOOTHED_STEPS:
            self.recent.popleft()
        if len(self.recent) < SMOOTHED or self.recent[0][0] > step - SMOOTHED_STEPS:
            return
        losses = [loss for _, loss in self.recent]
        mean, noise = statistics.fmean(losses), 3 * statistics.stdev(losses) / len(losses) ** 0.5  # 3 standard errors
        if mean < self.best:
            self.best, self.best_step = mean, step
        if mean <= self.best + MARGIN + noise:
            self.diverging_since = step
        elif step - self.diverging_since >= max(self.train.max_steps // 50, 2 * SMOOTHED_STEPS):
            self._once(
                "diverging",
                f"step {step}: the loss, {mean:.2f}, has stayed above its best ({self.best:.2f} at step "
                f"{self.best_step}) since step {self.diverging_since}: the run diverges. Usual remedies: half the "
                "--learning_rate, twice the --warmup_steps, or more tokens per step",
            )

    def _check_chance(self, step: int, metrics: dict[str, float]) -> None:
        window = max(self.train.max_steps // 5, 100)
        self.lines.append((step, metrics))
        while self.lines[0][0] <= step - window:
            self.lines.popleft()
        if step - self.start < window:
            return

        names = ("sop_accuracy", "sop_loss", "mlm_loss")
        order, order_loss, loss = (statistics.fmean(line[name] for _, line in self.lines) for name in names)
        if 0 < order < CHANCE and order_loss > 0:
            self._once(
                "order",
                f"step {step}: sentence order is still at chance (accuracy {order:.3f} over {window:,} steps). It is "
                "learned late, after masked tokens; if it stays at chance, the usual cause is documents of one or two "
                "sentences: use longer ones, or --no-sentence_order",
            )
        by_frequency = frequency_loss(self.counts)
        if loss > by_frequency - 0.1 and "diverging" not in self.reported:
            remedy = (
                "A plateau of a few thousand steps is normal; remedies: a higher --learning_rate, --ln_type preln, or "
                "more and smaller steps"
                if loss <= by_frequency + MARGIN  # otherwise not even the frequencies are learned
                else "Usual remedy: another --learning_rate, lower if the loss jumps, higher if it barely moves"
            )
            self._once(
                "tokens",
                f"step {step}: the masked-token loss, {loss:.2f}, is no better than guessing by token frequency "
                f"({by_frequency:.2f}) over {window:,} steps. {remedy}",
            )

    def _once(self, kind: str, text: str) -> None:
        if kind not in self.reported:
            self.reported.add(kind)
            self.say(text)


def frequency_loss(counts: np.ndarray) -> float:
    """Loss in nats of guessing masked tokens by their frequency: the entropy with Miller and Madow's correction.

    Args:
        counts: [V] int64, how often each id was a target; if all are 0, the loss is infinite.
    """
    seen = counts[counts > 0]
    if not len(seen):
        return math.inf
    shares = seen / seen.sum()
    return float(-(shares * np.log(shares)).sum() + (len(seen) - 1) / (2 * seen.sum()))
