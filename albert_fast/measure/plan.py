"""Duration of a training run on several cards, computed from the priced step of one card."""

from dataclasses import dataclass

from albert_fast.measure.ledger_report import PUBLISHED_MISS
from albert_fast.measure.pricing import Priced

GRADIENT_BYTES = 4  # per element of the flat fp32 gradient buffer


@dataclass(frozen=True)
class Plan:
    """A run of `tokens` tokens: number of steps, seconds per step (including the all-reduce) and hours."""

    gpus: int
    tokens: float
    steps: float
    step_seconds: float
    all_reduce_seconds: float
    hours: float
    gpu_hours: float


def plan(priced: Priced, parameters: int, gpus: int, tokens: float) -> Plan:
    """Plan a run of `tokens` tokens on `gpus` cards, each running the priced step on its own micro-batches.

    The flat gradient is all-reduced once per step, after backward; a ring moves 2 (n - 1) / n of its bytes over each
    card's link.
    """
    reduced = 2 * (gpus - 1) / gpus * GRADIENT_BYTES * parameters / priced.card.link_bytes_per_second
    step_seconds = priced.seconds + reduced
    steps = tokens / (gpus * priced.tokens_per_second * priced.seconds)
    hours = steps * step_seconds / 3600
    return Plan(gpus, tokens, steps, step_seconds, reduced, hours, gpus * hours)


def plan_text(found: Plan, priced: Priced) -> str:
    """The plan as text."""
    link = priced.card.link_bytes_per_second / 1e9
    return (
        f"{found.tokens / 1e9:,.4g} billion tokens on {found.gpus} {priced.card.name}: {found.steps:,.0f} steps of "
        f"{1000 * found.step_seconds:.1f} ms, of which {1000 * found.all_reduce_seconds:.2f} ms all-reduce over "
        f"{link:,.0f} GB/s links: {found.hours:,.1f} hours, {found.gpu_hours:,.1f} GPU-hours.\n"
        f"A lower bound: published runs take about {PUBLISHED_MISS:.1f} times as long, that is "
        f"{PUBLISHED_MISS * found.hours:,.1f} hours.\n"
    )
