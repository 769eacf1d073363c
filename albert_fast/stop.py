"""Stopping a run by a signal: what is done is saved, and several ranks stop after the same step."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator

from albert_fast.data.batches import Batch
from albert_fast.options import note

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 2  # torchrun passes on to its ranks a Ctrl-C that they have seen themselves


class Stop:
    """Remembers SIGINT, SIGTERM or SIGHUP inside `with`; a second signal stops at once.

    One rank stops between micro-batches. Several agree at the next log line, in the all-reduce that is made there.

    Attributes: received, the signal's name or ""; agreed, whether the run is to stop now.
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
        """The micro-batches of a step, until the run is to stop."""
        for batch in batches:
            yield batch
            if self.agreed:
                return

    def agree(self, stops: float) -> None:
        """Takes how many ranks were asked to stop."""
        self.agreed = self.agreed or stops > 0

    def _receive(self, number: int, _: object) -> None:
        if self.received and (self.alone or time.monotonic() - self.since > ECHO_SECONDS):
            raise KeyboardInterrupt
        if not self.received:
            self.received, self.since, self.agreed = signal.Signals(number).name, time.monotonic(), self.alone
            note(f"{self.received}: saving, then stopping")
