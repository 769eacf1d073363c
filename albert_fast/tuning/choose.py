"""Checks all candidates of each problem, times the correct ones, and chooses the fastest.

The default (the library, if it is a candidate) stays unless another is faster by MARGIN. If no candidate is correct,
the plain op is used; when the time budget is spent, defaults stay.
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
PLAIN = "plain"  # name of the plain op in choices


@dataclass
class Outcome:
    """Result for a problem: the chosen candidate, median seconds of those timed, and why others were excluded."""

    problem: Problem
    chosen: str
    seconds: dict[str, float] = field(default_factory=dict)
    out: dict[str, str] = field(default_factory=dict)


def tune(
    problems: Iterable[Problem], ops: Ops, clock: Clock, seconds: float, device: torch.device,
    timed_rows: Callable[[Problem], int] = lambda problem: problem.rows_to,
) -> list[Outcome]:  # fmt: skip
    """Tune each problem whose op has cases, within about `seconds`; returns nothing if that is 0.

    Args:
        ops: the ops of a run on `device`, whose kernels look candidates up.
        clock: times a call; tests inject their own.
        timed_rows: number of rows to time a problem with.
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
    """Medians of interleaved rounds, so that clock changes of the card affect all; {} for a single candidate."""
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
    """The pass to time for this problem.

    Both passes for attention, where they must use the same kernel, and for the loss, which computes gradients in
    forward.
    """
    if problem.op.startswith("attention") or problem.op == "linear_cross_entropy":
        return case.both
    return case.backward if problem.op.endswith("_backward") else case.forward


def insisting(problem: Problem, candidate: Candidate) -> Any:
    """Context manager or decorator that makes `candidate` run the problem with any number of rows."""
    return candidates.running({problem._replace(rows_to=1 << power): candidate for power in range(32)})


def _maker(problem: Problem, device: torch.device) -> Maker:
    return Maker(device, getattr(torch, problem.dtype))


def key(problem: Problem) -> str:
    """The problem as a string for JSON documents: `gelu_ffn_forward sm_90 bfloat16 16384 3072 768`."""
    return " ".join(map(str, problem if problem.length_to else problem[:-1]))


def lacking(choice: dict[str, str], problems: Iterable[Problem]) -> list[Problem]:
    """Problems for which `choice` names no candidate available on this card."""
    return [p for p in problems if choice.get(key(p)) not in (PLAIN, *(c.name for c in candidates_of(p)))]


def apply(choice: dict[str, str], problems: Iterable[Problem], ops: Ops) -> None:
    """Use the candidates named in `choice` from now on; `ops` gets the plain op where that was chosen."""
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
    """Print what was chosen instead of defaults, and one line for each excluded candidate."""
    changed = [f"{o.problem.op} {o.chosen}" for o in outcomes if o.chosen != candidates_of(o.problem)[0].name]
    timed = sum(len(o.seconds) for o in outcomes)
    note(f"implementations for {where}: {len(outcomes)} problems checked, {timed} candidates timed")
    note(f"faster than the defaults here: {', '.join(changed) or 'none'}")
    for o in outcomes:
        for name, reason in o.out.items():
            note(f"{o.problem.op}: {name} is out on {where}, torch {torch.__version__}: {reason}")
