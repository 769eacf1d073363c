"""Checks of the option dataclasses."""

from dataclasses import dataclass
from typing import Literal

import pytest

from albert_fast.config import DataConfig, ModelOptions, TrainConfig
from albert_fast.downstream.finetune_options import FinetuneOptions
from albert_fast.measure.memory import MemoryOptions
from albert_fast.options import DeviceOptions, Options, UserError, option
from albert_fast.pretrain import RunOptions


@dataclass(frozen=True, kw_only=True)
class Sample(Options):
    share: float = option(0.5, at_least=0, below=1)
    count: int | None = option(None, above=0, at_most=9)
    names: tuple[Literal["a", "b"], ...] = option(("a",))
    quiet: bool = option(False)
    folder: str = option("")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"share": 1.0}, "share=1.0 must be 0 or more and below 1"),
        ({"share": float("nan")}, "share=nan must be finite"),
        ({"share": "0.5"}, "share='0.5' must be a number"),
        ({"count": 0}, "count=0 must be above 0 and 9 or less"),
        ({"count": 10}, "count=10 must be above 0 and 9 or less"),
        ({"count": 2.5}, "count=2.5 must be a whole number"),
        ({"count": True}, "count=True must be a whole number"),
        ({"names": ("a", "c")}, "names='c' is unknown; use one of a, b"),
        ({"quiet": 1}, "quiet=1 must be true or false"),
        ({"folder": None}, "folder=None must be a string"),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_bounds_is_refused(given, message):
    with pytest.raises(UserError) as error:
        Sample(**given)
    assert str(error.value) == message


def test_valid_values_are_accepted():
    assert Sample(share=0, count=9, names=("b", "a"), quiet=True).count == 9


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (TrainConfig, {"optimizer": "sgd"}),
        (TrainConfig, {"precision": "fp16"}),
        (TrainConfig, {"recompute": "layers"}),
        (TrainConfig, {"weight_decay": float("inf")}),
        (TrainConfig, {"learning_rate": float("nan")}),
        (TrainConfig, {"seed": 2**63}),
        (TrainConfig, {"seed": -1}),
        (TrainConfig, {"max_steps": 10**20}),
        (TrainConfig, {"weight_decay": 1e300}),
        (DataConfig, {"loader_threads": 0}),
        (DataConfig, {"tokens_per_batch": 100, "max_seq_length": 101}),
        (ModelOptions, {"share_type": "some"}),
        (DeviceOptions, {"device": "gpu"}),
        (MemoryOptions, {"recompute": ("layers",)}),
        (RunOptions, {"data": "d", "output": "o", "save_steps": 0}),
        (FinetuneOptions, {"model": "m", "train": "t", "dev": "d", "output": "o", "pooling": "last"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "-".join(value),
)
def test_every_class_of_options_checks_its_fields(kind, given):
    with pytest.raises(UserError, match=list(given)[-1]):
        kind(**given)
