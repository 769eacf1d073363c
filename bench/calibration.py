"""python -m bench.calibration: the ledger's prediction for HuggingFace's eager steps against published throughput.

MLM training steps of BERT-base and ALBERT-base with bf16 autocast, SDPA and fused AdamW at S=128. The prediction
ignores gaps between kernels and power limits, so it is an upper bound; published runs show how far below it to expect.
"""

import logging
from typing import Any

import torch
from torch import nn

from albert_fast.cards import CARDS
from albert_fast.measure.ledger import Ledger
from albert_fast.measure.pricing import price_rows

SEQUENCES, LENGTH, CARD = 256, 128, "a100"
ADAMW_BYTES = 28  # per parameter in fp32: read weight, gradient and two moments, write weight and moments
# Published tokens/s of BERT-base pretraining on an A100, bf16, S=128, PyTorch without fused layers.
PUBLISHED = {"bert-base": 111_000}


def models() -> dict[str, nn.Module]:
    """HuggingFace's models with the published sizes and random weights."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import AlbertConfig, AlbertForMaskedLM, BertConfig, BertForMaskedLM

    base: dict[str, Any] = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
    sdpa: dict[str, Any] = dict(attn_implementation="sdpa")
    return {
        "bert-base": BertForMaskedLM(BertConfig(vocab_size=30528, **sdpa)),
        "albert-base": AlbertForMaskedLM(AlbertConfig(**base, embedding_size=128, **sdpa)),
    }


def tokens_per_second(model: nn.Module) -> float:
    """Predicted throughput of an eager training step of `model` on CARD."""
    ids = torch.zeros(SEQUENCES, LENGTH, dtype=torch.long)
    with Ledger(model) as ledger:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
    card = CARDS[CARD]
    seconds = sum(row.seconds for row in price_rows(ledger.entries, card))
    seconds += ADAMW_BYTES * sum(p.numel() for p in model.parameters()) / card.bytes_per_second
    return SEQUENCES * LENGTH / seconds


def main() -> None:
    print(f"| model | {CARD}: predicted tokens/s | published | predicted / published |\n| --- | ---: | ---: | ---: |")
    with torch.device("meta"):
        for name, model in models().items():
            given, published = tokens_per_second(model), PUBLISHED.get(name)
            cells = ("none found", "") if published is None else (f"{published:,}", f"{given / published:.2f}")
            print(f"| HuggingFace {name} | {given:,.0f} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
