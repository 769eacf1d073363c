"""Default learning rate, pooling and epochs of fine-tuning, chosen by model width and amount of pretraining.

The rules come from bench/sweep_finetune.py; its results are in bench/results/finetune-sweep.md. Published models keep
their published settings (ALBERT-base 3e-5, albert_zh's tiny 1e-4; 3 epochs with the first token's vector).
"""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.downstream.texts import EncodedTexts
from albert_fast.options import note
from albert_fast.pretrained import INDEX

PROBED_BATCHES = 4  # of 64 texts
# Below this relative spread, first-token vectors do not distinguish texts yet. Measured: 0.006 to 0.03 for random or
# barely trained (50 steps) weights, 0.45 and above for a model past the loss plateau.
LEAST_SPREAD = 0.1
COLLAPSED = 1e-3  # measured: 1e-4 for a model on the pretraining plateau, which stayed at chance at every learning rate
LITTLE = 1e9  # tokens of pretraining; published models have seen about a hundred times as many


@dataclass(frozen=True)
class Defaults:
    """Values for the flags that are not given, and the reason shown to the user."""

    learning_rate: float
    pooling: str
    epochs: int
    reason: str


def choose_defaults(hidden_size: int, spread: float, tokens_seen: int | None) -> Defaults:
    """Choose the defaults for a backbone.

    Args:
        spread: result of `first_token_spread`.
        tokens_seen: result of `tokens_seen`; None if unknown, as for published models.
    """
    if spread >= LEAST_SPREAD and (tokens_seen is None or tokens_seen >= LITTLE):
        rate = _round(3e-5 * max(768 / hidden_size, 1) ** (4 / 3))
        return Defaults(rate, "first", 3, f"as published for models of width {hidden_size}")
    saw = "an unknown number of" if tokens_seen is None else f"{tokens_seen:,}"
    reason = f"the backbone was pretrained on {saw} tokens"
    if spread < LEAST_SPREAD:
        reason += f", and its first-token vectors hardly differ between texts (relative spread {spread:.2%})"
    if spread < COLLAPSED:
        reason += " - too little for any learning rate: pretrain longer"
    # Best in the sweep: 2e-3 at width 128, 1e-3 at 312, 1e-4 at 768 (where 3e-4 collapses to one class).
    rate = _round(max(2e-3 * min(128 / hidden_size, 1) * min(312 / hidden_size, 1), 3e-5))
    return Defaults(rate, "mean", 3, f"{reason}; width {hidden_size}")


@torch.no_grad()
def first_token_spread(model: AlbertForSequenceClassification, texts: EncodedTexts) -> float:
    """RMS distance of the first-token vectors from their mean over the texts, relative to their RMS length.

    0 means that every text has the same vector, so that a classifier can only predict the majority class.
    """
    device = next(model.parameters()).device
    batches = [texts.batch(rows, device) for rows in islice(texts.in_order(64), PROBED_BATCHES)]
    vectors = torch.cat([model.albert(batch, batch.first_tokens()).float() for batch in batches])
    length = vectors.square().sum(1).mean().sqrt()
    return float((vectors - vectors.mean(0)).square().sum(1).mean().sqrt() / length.clamp(min=1e-12))


def tokens_seen(folder: Path) -> int | None:
    """Tokens that the checkpoint in `folder` was pretrained on, from checkpoint.json or its run's options, if known."""
    try:
        data = json.loads((folder / INDEX).read_text())["data"]
        if "tokens" in data:
            return int(data["tokens"])
        options = json.loads((folder.parent / "options.json").read_text())  # for checkpoints of older versions
        return int(data["cursor"]["index"]) * int(options["tokens_per_batch"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fill_in(given: dict[str, Any], defaults: Defaults) -> dict[str, Any]:
    """Fill in the settings that are None and print a note with the reason; the others stay as given."""
    chosen = {name: getattr(defaults, name) for name, value in given.items() if value is None}
    if chosen:
        flags = ", ".join(
            f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}" for name, value in chosen.items()
        )
        note(f"using {flags}: {defaults.reason}")
    if given.get("pooling") == "first" and defaults.pooling == "mean":
        note(f"--pooling first, but {defaults.reason}: --pooling mean learns faster here")
    return {**given, **chosen}


def _round(rate: float) -> float:
    """Round to one significant digit."""
    return float(f"{rate:.0e}")
