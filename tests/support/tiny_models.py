"""The config of a tiny model, padded input for it, and its pretraining losses."""

import torch

from albert_fast.config import AlbertConfig
from albert_fast.packed import PretrainingBatch, pack


def tiny_config(**overrides) -> AlbertConfig:
    shape = dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=3, intermediate_size=40, vocab_size=61)
    return AlbertConfig(**{**shape, "embedding_size": 8, "max_position_embeddings": 20, **overrides})


def padded_batch(vocab_size: int, lengths=(16, 5, 11), seed: int = 0):
    torch.manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, vocab_size, mask.shape) * mask
    types = (torch.arange(max(lengths)) >= 4).long() * mask
    positions = torch.stack([torch.randperm(length)[:3] for length in lengths])
    return ids, mask, types, positions


def pretraining_losses(model, ids, mask, types, positions):
    packed, _ = pack(ids, mask, types)
    row, width = torch.arange(len(ids))[:, None], ids.shape[1]
    flat = mask.flatten().cumsum(0) - 1  # padded index -> packed index
    dtype = model.sop_head.weight.dtype
    batch = PretrainingBatch(
        **vars(packed),
        masked_lm_positions=flat[(row * width + positions).flatten()],
        masked_lm_ids=ids[row, positions].flatten(),
        masked_lm_weights=torch.ones(positions.numel(), dtype=dtype),
        sentence_order_labels=torch.arange(len(ids)) % 2,
        sentence_order_weights=torch.ones(len(ids), dtype=dtype),
    )
    return model.losses(batch)
