"""A small training step on random micro-batches, and its state."""

import numpy as np
import torch

from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.data.batches import Batch
from albert_fast.model import AlbertForPreTraining
from albert_fast.ops import get_ops
from albert_fast.step import TrainStep

TOKENS, SEQUENCES, PREDICTIONS, LENGTH, VOCABULARY = 64, 6, 16, 24, 50


def make_batch(index: int) -> Batch:
    random = np.random.default_rng(index)
    lengths = random.integers(5, LENGTH + 1, size=3)
    lengths = lengths[np.cumsum(lengths) <= TOKENS]
    edges = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    used = int(edges[-1])
    edges = np.concatenate((edges, np.arange(used + LENGTH, TOKENS, LENGTH)))  # padding sequences
    cu_seqlens = np.full(SEQUENCES + 1, TOKENS, np.int32)
    cu_seqlens[: len(edges)] = edges
    positions = np.zeros(PREDICTIONS, np.int32)
    weights = np.zeros(PREDICTIONS, np.float32)
    count = int(random.integers(4, PREDICTIONS))
    positions[:count], weights[:count] = np.sort(random.permutation(used)[:count]), 1
    order = np.zeros(SEQUENCES, np.float32)
    order[: len(lengths)] = 1
    position_ids = np.zeros(TOKENS, np.int32)
    for start, length in zip(edges[:-1], lengths, strict=False):
        position_ids[start : start + length] = np.arange(length)
    return Batch(
        input_ids=random.integers(0, VOCABULARY, TOKENS, dtype=np.int32),
        token_type_ids=random.integers(0, 2, TOKENS, dtype=np.int32),
        position_ids=position_ids,
        cu_seqlens=cu_seqlens,
        masked_lm_positions=positions,
        masked_lm_ids=random.integers(0, VOCABULARY, PREDICTIONS, dtype=np.int32),
        masked_lm_weights=weights,
        sentence_order_labels=random.integers(0, 2, SEQUENCES, dtype=np.int32),
        sentence_order_weights=order,
        index=index, epoch=0, num_tokens=used, num_sequences=len(lengths), num_predictions=count,
    )  # fmt: skip


def make_step(dtype=torch.float32, train=None, device="cpu", ops="torch", among=(), **config) -> TrainStep:
    """A step of a small model. among: (rank, number of ranks, function called before capture)."""
    torch.manual_seed(0)
    shape = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, embedding_size=8)
    vocabulary = dict(vocab_size=VOCABULARY, max_position_embeddings=LENGTH)
    config = AlbertConfig(**{**shape, **vocabulary, "hidden_dropout_prob": 0.1, **config})
    train = TrainConfig(**{"max_steps": 100, "warmup_steps": 5, "learning_rate": 0.01, "seed": 7, **(train or {})})
    model = AlbertForPreTraining(config, get_ops(ops)).to(device)
    return TrainStep(model, make_batch(0), LENGTH, train, dtype, *among)


def bits(step: TrainStep) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in step.mutable_tensors()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def eager(step: TrainStep, steps: int = 20) -> list[torch.Tensor]:
    for index in range(steps):
        step([make_batch(index)])
    return bits(step)
