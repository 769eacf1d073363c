"""A clock for tuning that runs what it is given and reads the time off a table."""

from collections.abc import Mapping, Sequence

from albert_fast.kernels import candidates
from albert_fast.kernels.candidates import Problem


class Table:
    """On it the candidates of some problems take what `seconds` says; asking for the time costs a millisecond."""

    def __init__(self, problems: Sequence[Problem], seconds: Mapping[str, float]):
        self.problems, self.seconds, self.time = problems, seconds, 0.0

    def now(self) -> float:
        self.time += 1e-3
        return self.time

    def prepare(self, run):
        run()
        taken = min(self.seconds.get(name, 1.0) for name in self.names())
        return lambda: taken

    def names(self) -> list[str]:
        """The candidates that run the problems now."""
        with candidates.asking():
            return [candidates.chosen(problem).name for problem in self.problems]
