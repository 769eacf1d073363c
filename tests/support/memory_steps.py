"""The step of a small model whose memory is predicted and measured, on any device."""

from dataclasses import fields

from albert_fast.config import AlbertConfig, DataConfig
from albert_fast.measure.memory import MemoryOptions
from albert_fast.measure.step_spec import StepSpec


def spec(config: AlbertConfig, recompute: str = "none", **given) -> StepSpec:
    given = {"tokens_per_batch": 256, "max_seq_length": 64, "device": "cpu", **given}
    data = {field.name: given.pop(field.name) for field in fields(DataConfig) if field.name in given}
    return MemoryOptions(**given).spec(config, DataConfig(**data), recompute)


def small(**given) -> AlbertConfig:
    shape = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, embedding_size=16)
    return AlbertConfig(**{**shape, "vocab_size": 500, **given})
