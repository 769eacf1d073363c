"""Check every candidate of every problem, time those that are right, and take the fastest.

The default, the library's where there is one, stays unless another is faster by MARGIN. Where no candidate is right the
plain op runs; where the budget is spent defaults stay.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from albert_fast.kernels import candidates
from albert_fast.kernels.candidates import Candidate, Problem, candidates_of
from albert_fast.ops import Ops
from albert_fast.options import first_line, note
from albert_fast.tuning.case import Case
from albert_fast.tuning.cases import Maker, cases
from albert_fast.tuning.check import fault
from albert_fast.tuning.clock import Clock

MARGIN, ROUNDS, RAGGED_ROWS = 0.03, 31, 77
PLAIN = "plain"  # the name of the plain op among a problem's candidates


@dataclass
class Outcome:
    """What was found for a problem: who runs it, median seconds of who was timed, and who is out and why."""

    problem: Problem
    chosen: str
    seconds: dict[str, float] = field(default_factory=dict)
    out: dict[str, str] = field(default_factory=dict)


def tune(
    problems: Iterable[Problem], ops: Ops, clock: Clock, seconds: float, device: torch.device,
    timed_rows: Callable[[Problem], int] = lambda problem: problem.rows_to,
) -> list[Outcome]:  # fmt: skip
    """An Outcome for each problem whose op has cases, within about `seconds`; none at all where that is 0.

    Args:
        ops: those whose kernels ask for candidates, as a run on `device` takes them.
        clock: what times a call; tests give one of their own.
        timed_rows: how many rows to time a problem with.
    """
    known = [problem for problem in problems if cases(problem, 1, _maker(problem, device))]
    deadline = clock.now() + seconds
    if seconds <= 0:
        return []
    outcomes = []
    for place, problem in enumerate(known):
        share = clock.now() + max(deadline - clock.now(), 0.0) / (len(known) - place)
        outcomes.append(_tune_one(problem, ops, clock, share, device, timed_rows(problem)))
    return outcomes


def _tune_one(problem: Problem, ops: Ops, clock: Clock, until: float, device: torch.device, rows: int) -> Outcome:
    outcome = Outcome(problem, PLAIN)
    right: list[Candidate] = []
    checked = cases(problem, RAGGED_ROWS, _maker(problem, device))
    timed = cases(problem, rows, _maker(problem, device))[0]
    for candidate in candidates_of(problem):
        if right and clock.now() >= until:
            break
        wrong = _fault(candidate, problem, [*checked, timed], ops)
        if wrong:
            outcome.out[candidate.name] = wrong
        else:
            right.append(candidate)
    outcome.seconds = _times(right, timed, problem, ops, clock, until, outcome.out)
    right = [candidate for candidate in right if candidate.name not in outcome.out]
    if right:
        outcome.chosen = _fastest(right[0].name, outcome.seconds)
    return outcome


def _fastest(default: str, seconds: dict[str, float]) -> str:
    best = min(seconds, key=seconds.__getitem__, default=default)
    return best if default not in seconds or seconds[best] < (1 - MARGIN) * seconds[default] else default


def _fault(candidate: Candidate, problem: Problem, checked: list[Case], ops: Ops) -> str | None:
    for case in checked:
        with insisting(problem, candidate):
            wrong = fault(case, case.implementation(ops), case.reference(), getattr(torch, problem.dtype))
        if wrong:
            return wrong
    return None


def _times(
    right: list[Candidate], case: Case, problem: Problem, ops: Ops, clock: Clock, until: float, out: dict[str, str]
) -> dict[str, float]:
    """Medians of interleaved rounds, so that a card which warms up or slows down does it to all; {} without a rival."""
    prepared: dict[str, Callable[[], float]] = {}
    for candidate in right if len(right) > 1 else []:
        make = _timed_part(problem, case)
        try:
            with insisting(problem, candidate):
                run = make(case.implementation(ops), getattr(torch, problem.dtype))
                prepared[candidate.name] = clock.prepare(insisting(problem, candidate)(run))
        except Exception as error:
            out[candidate.name] = f"{case.op} {first_line(error)}"[:300]
    taken: dict[str, list[float]] = {name: [] for name in prepared}
    for turn in range(ROUNDS):
        if turn > 2 and clock.now() >= until:
            break
        for name, once in prepared.items():
            taken[name].append(once())
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _timed_part(problem: Problem, case: Case) -> Callable[..., Callable[[], Any]]:
    """The direction that the problem is about.

    Both for attention, whose kernels must not change in between, and for the loss, whose forward pass makes gradients.
    """
    if problem.op.startswith("attention") or problem.op == "linear_cross_entropy":
        return case.both
    return case.backward if problem.op.endswith("_backward") else case.forward


def insisting(problem: Problem, candidate: Candidate) -> Any:
    """Within it, or in a function that it decorates, `candidate` runs the problem with any number of rows."""
    return candidates.running({problem._replace(rows_to=1 << power): candidate for power in range(32)})


def _maker(problem: Problem, device: torch.device) -> Maker:
    return Maker(device, getattr(torch, problem.dtype))


def key(problem: Problem) -> str:
    """The problem in words, for documents: `gelu_ffn_forward sm_90 bfloat16 16384 3072 768`."""
    return " ".join(map(str, problem if problem.length_to else problem[:-1]))


def lacking(choice: dict[str, str], problems: Iterable[Problem]) -> list[Problem]:
    """The problems on which `choice` says nothing that this card can do."""
    return [p for p in problems if choice.get(key(p)) not in (PLAIN, *(c.name for c in candidates_of(p)))]


def apply(choice: dict[str, str], problems: Iterable[Problem], ops: Ops) -> None:
    """Let the candidates that `choice` names run from now on; `ops` takes the plain op where it says so."""
    for problem in problems:
        name = choice.get(key(problem))
        if name == PLAIN:
            for case in cases(problem, 1, _maker(problem, torch.device("cpu"))):
                if case.function is None:
                    setattr(ops, case.op, case.reference())
        for candidate in candidates_of(problem):
            if candidate.name == name:
                candidates.choose({problem: candidate})


def say(outcomes: list[Outcome], where: str) -> None:
    """Two lines: what was chosen in place of a default, and a line more for each candidate that is out."""
    changed = [f"{o.problem.op} {o.chosen}" for o in outcomes if o.chosen != candidates_of(o.problem)[0].name]
    timed = sum(len(o.seconds) for o in outcomes)
    note(f"implementations for {where}: {len(outcomes)} problems checked, {timed} candidates timed")
    note(f"faster than the defaults here: {', '.join(changed) or 'none'}")
    for o in outcomes:
        for name, reason in o.out.items():
            note(f"{o.problem.op}: {name} is out on {where}, torch {torch.__version__}: {reason}")
