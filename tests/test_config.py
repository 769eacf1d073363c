"""Configs are checked on construction and when read."""

import json

import pytest
from support.tiny_models import tiny_config

from albert_fast.config import AlbertConfig
from albert_fast.options import UserError


def test_a_model_config_nested_in_a_training_frameworks(tmp_path, capsys):
    config = tiny_config().to_dict()
    (tmp_path / "config.json").write_text(json.dumps({"seed": 1, "model": {"name": "x", "albert": config}}))
    assert AlbertConfig.from_pretrained(tmp_path) == tiny_config()
    assert "using the model's config under model.albert" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"teacher": config, "student": config}))
    with pytest.raises(UserError, match="has no hidden_size"):
        AlbertConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"extra": 5}, "must be a JSON object"), ({"final_layer_norm": "false"}, "final_layer_norm='false' must be true"),
     ({"hiden_size": 3}, "did you mean 'hidden_size'")],
)  # fmt: skip
def test_configs_are_checked_when_read(tmp_path, change, message):
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(tiny_config().to_dict()).encode())  # a byte-order mark
    assert AlbertConfig.from_pretrained(file) == tiny_config()
    file.write_text(json.dumps(tiny_config().to_dict() | change))
    with pytest.raises(UserError, match=message):
        AlbertConfig.from_pretrained(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_attention_heads": 5}, "does not divide hidden_size=24; use 4"), ({"real_vocab_size": 62}, "is more than"),
     ({"num_hidden_groups": 5}, "use at most 4"), ({"share_type": "some"}, "share_type='some'"),
     ({"hidden_act": "swish"}, "hidden_act='swish'")],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        tiny_config(**change)


def test_layers_use_the_parameter_sets_of_their_group():
    """Four layers in two groups; a part that is not shared has a set for each layer."""
    config = tiny_config(num_hidden_groups=2, share_type="attention")
    assert (config.num_attention_sets, config.num_feed_forward_sets) == (2, 4)
    assert [config.set_index(2, layer, 0) for layer in range(4)] == [0, 0, 1, 1]
    assert [config.set_index(4, layer, 0) for layer in range(4)] == [0, 1, 2, 3]
