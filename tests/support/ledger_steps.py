"""The step of a small model for the ledger tests, with its sizes."""

import torch
from support.steps import VOCABULARY

from albert_fast.cards import CARDS
from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.measure.step_spec import StepSpec

H100 = CARDS["h100"]
T, S, H, F, E, V = 1024, 128, 64, 256, 32, VOCABULARY


def spec(target: str = "cuda", tokens: int = T, dtype=torch.bfloat16, train=None, **config) -> StepSpec:
    sizes = dict(hidden_size=H, num_hidden_layers=1, num_attention_heads=4, intermediate_size=F, embedding_size=E)
    return StepSpec(
        config=AlbertConfig(**{**sizes, "vocab_size": V, **config}),
        tokens_per_batch=tokens,
        max_seq_length=S,
        train=TrainConfig(capture="off", **(train or {})),
        target=target,
        dtype=dtype,
    )


def totals(entries, *parts: str, phase: str | None = None) -> tuple[int, int, int]:
    """(bytes, FLOPs, launches) of the entries whose op name contains every one of `parts`."""
    chosen = [e.cost for e in entries if all(p in e.op for p in parts) and phase in (None, e.phase)]
    return sum(c.bytes for c in chosen), sum(c.flops for c in chosen), sum(c.launches for c in chosen)
