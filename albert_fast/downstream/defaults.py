"""Fine-tuning's learning rate, pooling and epochs where they are not given: by width, and by how much the backbone saw.

The rules come from bench/sweep_finetune.py, whose table is bench/results/finetune-sweep.md. A published model keeps the
settings it was published with (ALBERT-base 3e-5, albert_zh's tiny 1e-4; 3 epochs on the first token's vector).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.downstream.texts import EncodedTexts
from albert_fast.options import note
from albert_fast.pretrained import INDEX

PROBED = 256  # texts
# Below this share of their length first tokens' vectors do not yet tell texts apart. Seen: 0.006 to 0.03 in models
# without weights or after 50 steps, 0.45 and more in one that has left the plateau.
LEAST_SPREAD = 0.1
COLLAPSED = 1e-3  # seen: 1e-4 in a model on the plateau of pretraining, which ended at chance at every rate
LITTLE = 1e9  # tokens of pretraining; published models saw some hundred times as many


@dataclass(frozen=True)
class Defaults:
    """What to use where the user says nothing, and why, in words."""

    learning_rate: float
    pooling: str
    epochs: int
    reason: str


def choose_defaults(hidden_size: int, spread: float, tokens_seen: int | None) -> Defaults:
    """The defaults for a backbone.

    Args:
        spread: of `first_token_spread`.
        tokens_seen: of `tokens_seen`; None where the model does not say, as published ones do not.
    """
    if spread >= LEAST_SPREAD and (tokens_seen is None or tokens_seen >= LITTLE):
        rate = _round(3e-5 * max(768 / hidden_size, 1) ** (4 / 3))
        return Defaults(rate, "first", 3, f"as models of width {hidden_size} are published")
    saw = "an unknown number of" if tokens_seen is None else f"{tokens_seen:,}"
    reason = f"the backbone saw {saw} tokens"
    if spread < LEAST_SPREAD:
        reason += f", and its first tokens hardly differ between texts (by {spread:.2%} of their length)"
    if spread < COLLAPSED:
        reason += " - too little to learn from at any rate: pretrain longer"
    # The sweep's best: 2e-3 at width 128, 1e-3 at 312, 1e-4 at 768, where 3e-4 calls all reviews one class.
    rate = _round(max(2e-3 * min(128 / hidden_size, 1) * min(312 / hidden_size, 1), 3e-5))
    return Defaults(rate, "mean", 3, f"{reason}; width {hidden_size}")


@torch.no_grad()
def first_token_spread(model: AlbertForSequenceClassification, texts: EncodedTexts) -> float:
    """How far first tokens' vectors lie from their mean over the texts, as a share of their length; root mean square.

    0: the model gives every text the same vector, and a classifier over it can only name the commonest class.
    """
    device = next(model.parameters()).device
    count = min(PROBED, len(texts))
    parts = []
    for rows in texts.in_order(64):
        if rows[0] < count:
            batch = texts.batch(rows[rows < count], device)
            parts.append(model.albert(batch, batch.first_tokens()).float())
    vectors = torch.cat(parts)
    length = vectors.square().sum(1).mean().sqrt()
    return float((vectors - vectors.mean(0)).square().sum(1).mean().sqrt() / length.clamp(min=1e-12))


def tokens_seen(folder: Path) -> int | None:
    """Tokens that the checkpoint in `folder` was pretrained on, where checkpoint.json or its run's options say so."""
    try:
        data = json.loads((folder / INDEX).read_text())["data"]
        if "tokens" in data:
            return int(data["tokens"])
        options = json.loads((folder.parent / "options.json").read_text())  # of a checkpoint that is older
        return int(data["cursor"]["index"]) * int(options["tokens_per_batch"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fill_in(given: dict[str, Any], defaults: Defaults) -> dict[str, Any]:
    """The three settings, given ones as they are; what is filled in is said, with its reason."""
    chosen = {name: getattr(defaults, name) for name, value in given.items() if value is None}
    if chosen:
        told = ", ".join(f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"
                         for name, value in chosen.items())  # fmt: skip
        note(f"not given, so {told}: {defaults.reason}")
    if given.get("pooling") == "first" and defaults.pooling == "mean":
        note(f"--pooling first, but {defaults.reason}: --pooling mean learns sooner here")
    return {**given, **chosen}


def _round(rate: float) -> float:
    """To one significant digit."""
    return float(f"{rate:.0e}")
