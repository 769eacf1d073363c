"""Implementation choices for a training step: from its checkpoint, the cache, or tuning; the same on all ranks."""

from collections.abc import Callable
from typing import Literal

import torch.distributed as dist

from albert_fast.kernels import candidates
from albert_fast.kernels.candidates import Problem
from albert_fast.options import note
from albert_fast.step import TrainStep
from albert_fast.tuning import cache
from albert_fast.tuning.choose import apply, key, lacking, say, tune
from albert_fast.tuning.clock import Clock, clock_for


def tune_step(
    step: TrainStep, mode: Literal["auto", "off", "again"], seconds: float, saved: dict[str, str],
    clock: Clock | None = None, timed_rows: Callable[[Problem], int] = lambda problem: problem.rows_to,
) -> dict[str, str]:  # fmt: skip
    """Choose an implementation for each problem of `step`, before it is captured, and use it from now on.

    Args:
        mode: auto uses cached choices and tunes the rest, again tunes everything, off keeps the defaults.
        seconds: time budget of tuning.
        saved: choices of the checkpoint that the run resumes from, or {}. They take precedence in every mode but again,
            so that a resumed run uses the same implementations.

    Returns: the name of a candidate for each problem, the same on all ranks, for options and checkpoints.
    """
    if mode == "off" and not saved:
        return {}
    device = step.key.device
    problems = problems_of(step)
    choice: dict[str, str] = {}
    if step.rank == 0:
        choice = _choice(problems, step, mode, seconds, saved, clock or clock_for(device), timed_rows)
    if step.world_size > 1:
        agreed = [choice]
        dist.broadcast_object_list(agreed, 0)
        choice = agreed[0]
    apply(choice, problems, step.model.ops)
    return choice


def problems_of(step: TrainStep) -> list[Problem]:
    """The problems that a step looks up; the step is unchanged."""
    with candidates.asking() as problems, step.untouched():
        step.micro_step()
        step.update()
    return problems


def _choice(
    problems: list[Problem], step: TrainStep, mode: str, seconds: float, saved: dict[str, str], clock: Clock,
    timed_rows: Callable[[Problem], int],
) -> dict[str, str]:  # fmt: skip
    device = step.key.device
    known = cache.card(device)
    choice = {} if mode == "again" else saved
    lost = [problem for problem in lacking(choice, problems) if key(problem) in choice]
    if lost:
        note(f"the checkpoint's implementations of {', '.join(key(p) for p in lost)} are not on {known['card']}")
    if mode == "off":
        return choice
    if mode == "auto":
        choice = {**cache.load(known), **choice}
    missing = lacking(choice, problems)
    outcomes = tune(missing, step.model.ops, clock, seconds, device, timed_rows)
    if outcomes:
        say(outcomes, known["card"])
        seconds_of = {key(o.problem): o.seconds for o in outcomes if o.seconds}
        cache.store(known, {key(o.problem): o.chosen for o in outcomes}, seconds_of)
    elif problems:
        note(f"implementations for {known['card']}: {len(problems) - len(missing)} of {len(problems)} chosen before")
        note("--tune again chooses anew, --tune off keeps the defaults")
    choice = {**choice, **{key(o.problem): o.chosen for o in outcomes}}
    return {key(p): choice[key(p)] for p in problems if key(p) in choice}
