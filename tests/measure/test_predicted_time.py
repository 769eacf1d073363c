"""The command that predicts a step's time: its tables, its JSON and what it refuses."""

import json

import pytest
from support.commands import refused

from albert_fast.cli import main
from albert_fast.config import AlbertConfig, DataConfig, TrainConfig
from albert_fast.measure.predicted_time import step_spec


def test_command_prints_the_json_that_is_promised(capsys):
    flags = ["--config", "tiny", "--tokens_per_batch", "1024", "--max_seq_length", "128", "--json"]
    main(["profile", "--predict", "a100", *flags])
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["card", "seconds", "tokens_per_second", "mfu", "launches", "floor_seconds", "rows"]
    assert list(document["rows"][0]) == ["phase", "op", "count", "bytes", "flops", "launches", "seconds"]
    assert document["card"] == "a100"


def test_command_prints_tables_and_a_plan(capsys):
    flags = ["--config", "tiny", "--tokens_per_batch", "1024", "--max_seq_length", "128", "--rows", "3"]
    main(["profile", "--predict", "h100", *flags, "--gpus", "8", "--tokens", "1e9"])
    out = capsys.readouterr().out
    assert "smaller rows" in out
    assert "8 h100" in out
    assert out.count("A lower bound: published") == 2


def test_the_step_has_room_for_the_sequences_that_are_asked_for():
    config = AlbertConfig.from_preset("tiny")
    for most in (300, 4):  # more than fit, and fewer
        data = DataConfig(tokens_per_batch=1024, max_seq_length=128, max_sequences=most)
        batch = step_spec(config, data, TrainConfig()).batch()
        assert len(batch.sentence_order_labels) == most
        assert batch.num_sequences == batch.sentence_order_weights.sum() == min(most, 8)
        assert batch.masked_lm_positions.max() < batch.num_tokens == 128 * batch.num_sequences
        assert batch.cu_seqlens[-1] == 1024


def test_the_step_predicts_as_many_words_as_are_asked_for():
    """T = 1024, S = 128: budgets of 19 and 64 tokens, at most 5; ceil(sqrt(8)) = 3 more, in sixteens."""
    for settings, room, made in ({}, 160, 19), ({"masked_lm_prob": 0.5}, 528, 64), ({"max_predictions": 5}, 160, 5):
        data = DataConfig(tokens_per_batch=1024, max_seq_length=128, **settings)
        batch = step_spec(AlbertConfig.from_preset("tiny"), data, TrainConfig()).batch()
        assert (len(batch.masked_lm_positions), batch.num_predictions) == (room, 8 * made)


@pytest.mark.parametrize(("flags", "message"), [
    (["--predict", "h1000"], "predict='h1000'"), (["--predict", "h100", "--precision", "fp32"], "precision=fp32"),
    (["--predict", "h100", "--max_seq_length", "1024"], "max_position_embeddings"),
    (["--predict", "h100", "--gpus", "0"], "gpus=0"), (["--predict", "h100", "--gpus", "8"], "give --tokens too"),
    (["--rates", "x"], "rates=x is of a step that is priced; give --predict CARD too"),
    (["--predict", "h100", "--steps", "4"], "steps=4 is of a step that is run, not priced; leave --predict out"),
])  # fmt: skip
def test_command_refuses(flags, message, capsys):
    assert message in refused(capsys, "profile", "--config", "tiny", *flags)
