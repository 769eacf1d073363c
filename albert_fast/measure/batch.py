"""A synthetic micro-batch of full sequences, used by predictions and benchmarks without a corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from albert_fast.config import AlbertConfig
from albert_fast.data.batches import Batch
from albert_fast.data.capacities import LoaderSettings, loader_config

if TYPE_CHECKING:
    from typing import Unpack  # new in Python 3.11


def full_batch(
    config: AlbertConfig, tokens_per_batch: int, max_seq_length: int, **settings: Unpack[LoaderSettings]
) -> Batch:
    """A micro-batch of full sequences of random ids, with the capacities of PretrainingLoader."""
    random, tokens, length = np.random.default_rng(0), tokens_per_batch, max_seq_length
    loader = loader_config(tokens_per_batch=tokens, max_seq_length=length, **settings)
    most, predictions = loader.max_sequences, loader.predictions_per_batch
    sequences = min(tokens // length, most)
    edges = np.minimum(np.arange(loader.sequence_slots() + 1) * length, tokens)
    columns = 1 + random.random((sequences, length - 1)).argsort(1)[:, : loader.budget(length)]
    masked = (np.arange(sequences)[:, None] * length + np.sort(columns)).ravel()
    used = len(masked)
    positions = np.zeros(predictions, np.int32)
    positions[:used] = masked
    return Batch(
        input_ids=random.integers(0, config.vocab_size, tokens, dtype=np.int32),
        token_type_ids=np.zeros(tokens, np.int32),
        position_ids=(np.arange(tokens) % length).astype(np.int32),
        cu_seqlens=edges.astype(np.int32),
        masked_lm_positions=positions,
        masked_lm_ids=random.integers(0, config.vocab_size, predictions, dtype=np.int32),
        masked_lm_weights=(np.arange(predictions) < used).astype(np.float32),
        sentence_order_labels=np.zeros(most, np.int32),
        sentence_order_weights=(np.arange(most) < sequences).astype(np.float32),
        index=0, epoch=0, num_tokens=sequences * length, num_sequences=sequences, num_predictions=used,
    )  # fmt: skip
