"""Prices a ledger at a card's rates: seconds per row, per class and in total, and the lower bound by fusion."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from albert_fast.cards import Card
from albert_fast.flops import step_flops
from albert_fast.kernels.cost import Cost
from albert_fast.measure.ledger import Entry, record
from albert_fast.measure.step_spec import StepSpec

CLASSES = {"product": "products", "attention": "attention", "layer_norm": "LayerNorm", "memory": "other memory traffic"}
LAUNCHES = "launches"


@dataclass(frozen=True)
class Row:
    """`count` identical ops of a phase: their total bytes, FLOPs and seconds, and what bounds them."""

    phase: str
    op: str
    count: int
    bytes: int
    flops: int
    launches: int
    seconds: float
    bound: str
    kind: str


@dataclass(frozen=True)
class Priced:
    """A step priced for a card. floor_seconds: see `floor_seconds`."""

    card: Card
    seconds: float
    tokens_per_second: float
    mfu: float
    launches: int
    floor_seconds: float
    rows: list[Row]
    classes: dict[str, float]

    def document(self) -> dict[str, Any]:
        """The JSON document that --json prints."""
        rows = [{k: v for k, v in asdict(row).items() if k not in ("bound", "kind")} for row in self.rows]
        names = ("seconds", "tokens_per_second", "mfu", "launches", "floor_seconds")
        return {"card": self.card.name, **{name: getattr(self, name) for name in names}, "rows": rows}


def price(spec: StepSpec, card: Card, ffn: str = "library") -> Priced:
    """Price one step of `spec` on `card`."""
    entries = record(spec, ffn)
    rows = price_rows(entries, card)
    seconds = sum(row.seconds for row in rows)
    batch, micro_batches = spec.batch(), spec.train.gradient_accumulation_steps
    shape = (spec.tokens_per_batch, spec.max_seq_length, len(batch.sentence_order_weights))
    flops = micro_batches * step_flops(spec.config, *shape, len(batch.masked_lm_positions))
    return Priced(
        card=card,
        seconds=seconds,
        tokens_per_second=micro_batches * batch.num_tokens / seconds,
        mfu=flops / seconds / card.peak_flops,
        launches=sum(row.launches for row in rows),
        floor_seconds=floor_seconds(entries, card),
        rows=rows,
        classes=class_seconds(rows, card),
    )


def price_rows(entries: Iterable[Entry], card: Card) -> list[Row]:
    """Merge entries of the same phase, part and op into rows, most expensive first; seconds include launches."""
    grouped: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        grouped.setdefault((entry.phase, entry.op), []).append(entry)
    rows = []
    for (phase, op), group in grouped.items():
        costs = [entry.cost for entry in group]
        moving = sum(cost.bytes for cost in costs) / card.bytes_per_second
        computing = sum(cost.flops / rate(cost, card) for cost in costs)
        launching = sum(cost.launches for cost in costs) * card.launch_seconds
        limits = {"memory": moving, "FLOPs": computing, "launch": launching}
        rows.append(
            Row(
                phase=phase,
                op=op,
                count=sum(entry.count for entry in group),
                bytes=sum(cost.bytes for cost in costs),
                flops=sum(cost.flops for cost in costs),
                launches=sum(cost.launches for cost in costs),
                seconds=sum(seconds(cost, card) for cost in costs) + launching,
                bound=max(limits, key=lambda name: limits[name]),
                kind=costs[0].kind,
            )
        )
    return sorted(rows, key=lambda row: -row.seconds)


def seconds(cost: Cost, card: Card) -> float:
    """Time of a cost without launches: that of its bytes or its FLOPs, whichever is longer."""
    return max(cost.bytes / card.bytes_per_second, cost.flops / rate(cost, card))


def rate(cost: Cost, card: Card) -> float:
    """FLOP/s that apply to a cost: library products, our products, or FlashAttention forward or backward."""
    if cost.kind == "attention":
        return card.flash_backward_flops if "backward" in cost.name else card.flash_forward_flops
    return card.own_product_flops if cost.name.endswith("_kernel") else card.product_flops


def class_seconds(rows: Iterable[Row], card: Card) -> dict[str, float]:
    """Seconds of the step by class, with all launches in a class of their own; they add up to the step."""
    shares = dict.fromkeys((*CLASSES.values(), LAUNCHES), 0.0)
    for row in rows:
        launching = row.launches * card.launch_seconds
        shares[CLASSES[row.kind]] += row.seconds - launching
        shares[LAUNCHES] += launching
    return shares


def floor_seconds(entries: Iterable[Entry], card: Card) -> float:
    """The step with perfect fusion: products, attention and LayerNorms at their minimum bytes.

    All other memory traffic of forward and backward is assumed to be fused away; the update moves its least_bytes.
    """
    total = 0.0
    for entry in entries:
        cost = entry.cost
        if cost.kind != "memory" or (entry.phase == "update" and cost.least_bytes is not None):
            total += max(cost.floor_bytes / card.bytes_per_second, cost.flops / rate(cost, card))
            total += cost.launches * card.launch_seconds
    return total
