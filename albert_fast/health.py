"""Is the run well? Looks at the metrics that are read for the log anyway, and says once what is wrong."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from albert_fast.config import TrainConfig
from albert_fast.data.batches import Batch
from albert_fast.options import UserError

MARGIN = 0.3  # nats above the best loss that are no noise of a mean over several log lines
CHANCE = 0.53  # sentence-order accuracy below which it is guessed
SMOOTHED, SMOOTHED_STEPS = 5, 50  # log lines and steps, at least, of a mean loss: single steps are noise
COUNTED = 100_000  # predicted tokens from which the frequency of words is taken


class IllRun(UserError):
    """A run that cannot go on: exit code 3."""

    exit_code = 3


class Health:
    """Watches one run.

    Args:
        train: for its steps and rates.
        max_skipped: skipped updates in a row that end the run.
        step, skipped: the step that the run begins after, and how many updates were skipped until there.
        say: called with each note; notes are given once.
    """

    def __init__(self, train: TrainConfig, max_skipped: int, step: int, skipped: int, say: Callable[[str], None]):
        self.train, self.max_skipped, self.say = train, max_skipped, say
        self.begun = max(step, train.warmup_steps)
        self.step, self.skipped, self.in_a_row = step, skipped, 0  # as of the last look
        self.said: set[str] = set()
        self.recent: deque[tuple[int, float]] = deque()  # (the step before a line's first, its loss)
        self.first = self.best = math.inf
        self.best_step = self.diverging_since = step
        self.lines: deque[tuple[int, dict[str, float]]] = deque()
        self.words = np.zeros(0, np.int64)  # how often each id was to be predicted

    def counting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches on; of the first ones it counts the words to predict, on the host."""
        for batch in batches:
            if self.words.sum() < COUNTED:
                counts = np.bincount(batch.masked_lm_ids[: batch.num_predictions], minlength=len(self.words))
                counts[: len(self.words)] += self.words
                self.words = counts
            yield batch

    def look(self, step: int, metrics: dict[str, float]) -> None:
        """Takes one line of metrics, of the steps since the last; the same on every rank.

        Raises:
            IllRun: `max_skipped` updates in a row or more were skipped.
        """
        before = self.step
        self.look_at_updates(step, metrics)
        if math.isfinite(metrics["loss"]):
            self._look_for_divergence(before, step, metrics["loss"])
            self._look_for_chance(step, metrics)

    def look_at_updates(self, step: int, metrics: dict[str, float]) -> None:
        """The part of `look` that needs skipped_updates, last_gradient_norm and learning_rate alone."""
        steps, self.step = step - self.step, step
        skipped, self.skipped = int(metrics["skipped_updates"]) - self.skipped, int(metrics["skipped_updates"])
        if skipped >= steps:
            self.in_a_row += skipped
        else:  # skipped updates follow each other where they do not stop by themselves
            self.in_a_row = skipped if not math.isfinite(metrics["last_gradient_norm"]) else 0
        if self.in_a_row >= self.max_skipped:
            first = step - self.in_a_row + 1
            raise IllRun(
                f"step {step}: the last {self.in_a_row} updates were skipped, their gradients are not finite; first "
                f"step {first}, gradient norm {metrics['last_gradient_norm']:g}, learning rate "
                f"{metrics['learning_rate']:.3g}. Go on from a checkpoint before step {first}, or start "
                "again, with a lower --learning_rate, a longer --warmup_steps, --max_grad_norm 1 or --precision fp32"
            )
        if skipped:
            self._once(
                "skipped", f"step {step}: {skipped} of {steps} updates were skipped, their gradients are not finite"
            )

    def _look_for_divergence(self, before: int, step: int, loss: float) -> None:
        self.recent.append((before, loss))
        while len(self.recent) > SMOOTHED and self.recent[1][0] <= step - SMOOTHED_STEPS:
            self.recent.popleft()
        if len(self.recent) < SMOOTHED or self.recent[0][0] > step - SMOOTHED_STEPS:
            return
        mean = sum(loss for _, loss in self.recent) / len(self.recent)
        self.first = mean if self.first == math.inf else self.first
        if mean < self.best:
            self.best, self.best_step = mean, step
        if mean <= min(self.first, self.best) + MARGIN:
            self.diverging_since = step
        elif step - self.diverging_since >= max(self.train.max_steps // 50, 2 * SMOOTHED_STEPS):
            self._once(
                "diverging",
                f"step {step}: the loss, {mean:.2f}, has stayed above its best ({self.best:.2f} at step "
                f"{self.best_step}) since step {self.diverging_since}: the run diverges. What usually helps: half the "
                "--learning_rate, twice the --warmup_steps, or more tokens a step",
            )

    def _look_for_chance(self, step: int, metrics: dict[str, float]) -> None:
        window = max(self.train.max_steps // 5, 100)
        self.lines.append((step, metrics))
        while self.lines[0][0] <= step - window:
            self.lines.popleft()
        if step - self.begun < window:
            return

        def mean(name: str) -> float:
            return sum(line[name] for _, line in self.lines) / len(self.lines)

        order = mean("sop_accuracy")
        if 0 < order < CHANCE and mean("sop_loss") > 0:
            self._once(
                "order",
                f"step {step}: sentence order is still guessed ({order:.3f} right over {window:,} steps). It is learnt "
                "late, after the words; where it stays so, documents of one or two sentences are the usual reason: "
                "give longer ones, or --no-sentence_order",
            )
        guessing, words = frequency_loss(self.words), mean("mlm_loss")
        if words > guessing - 0.1 and "diverging" not in self.said:
            helps = (
                "A plateau of some thousand steps is usual; what helps: a higher --learning_rate, --ln_type preln, or "
                "smaller steps and more of them"
                if words <= guessing + MARGIN  # else even the frequencies are not learnt
                else "What usually helps: another --learning_rate, lower where the loss jumps, higher where it creeps"
            )
            self._once(
                "words",
                f"step {step}: the masked-word loss, {words:.2f}, is no better than guessing by the frequency of words "
                f"({guessing:.2f}) over {window:,} steps. {helps}",
            )

    def _once(self, kind: str, text: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            self.say(text)


def frequency_loss(counts: np.ndarray) -> float:
    """Loss, in nats, of guessing masked words by how frequent they are (entropy, Miller and Madow's correction).

    Args:
        counts: [V] int64, how often each id was to be predicted; none yet: infinity.
    """
    seen = counts[counts > 0]
    if not len(seen):
        return math.inf
    shares = seen / seen.sum()
    return float(-(shares * np.log(shares)).sum() + (len(seen) - 1) / (2 * seen.sum()))
