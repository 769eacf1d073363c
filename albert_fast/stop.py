"""Stopping a run by a signal, after saving; several ranks stop after the same step."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator

from albert_fast.data.batches import Batch
from albert_fast.options import note

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 2  # torchrun forwards Ctrl-C to ranks that have already received it


class Stop:
    """Context manager that records SIGINT, SIGTERM or SIGHUP; a second signal raises KeyboardInterrupt.

    A single rank stops between micro-batches. Several ranks agree to stop in the all-reduce of the next log line.

    Attributes: received, the signal's name or ""; agreed, whether the run must stop now.
    """

    def __init__(self, world_size: int) -> None:
        self.alone, self.received, self.agreed, self.since = world_size == 1, "", False, 0.0

    def __enter__(self) -> Stop:
        self.before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def between(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The micro-batches of a step, until the run must stop."""
        for batch in batches:
            yield batch
            if self.agreed:
                return

    def agree(self, stops: float) -> None:
        """Stop if at least one rank received a signal; `stops` is their number."""
        self.agreed = self.agreed or stops > 0

    def _receive(self, number: int, _: object) -> None:
        if self.received and (self.alone or time.monotonic() - self.since > ECHO_SECONDS):
            raise KeyboardInterrupt
        if not self.received:
            self.received, self.since, self.agreed = signal.Signals(number).name, time.monotonic(), self.alone
            note(f"{self.received}: saving, then stopping")
