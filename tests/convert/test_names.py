"""Every parameter maps to distinct names of the other projects."""

from collections.abc import Callable

import pytest
import torch
from support.tiny_models import tiny_config

from albert_fast.config import AlbertConfig
from albert_fast.convert.names import Names, albert_pytorch_names, huggingface_names, tensorflow_names
from albert_fast.model import AlbertForPreTraining

ATTENTION = "albert.encoder.attention.0.query_key_value.weight"


@pytest.mark.parametrize(
    ("names_of", "layout", "share_type", "query"),
    [
        (huggingface_names, "google", "all",
         "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query.weight"),
        (tensorflow_names, "google", "all",
         "bert/encoder/transformer/group_0/inner_group_0/attention_1/self/query/kernel"),
        (tensorflow_names, "zh", "all", "bert/encoder/layer_shared/attention/self/query/kernel"),
        (albert_pytorch_names, "zh", "None", "bert.encoder.layer.0.attention.self.query.weight"),
        (albert_pytorch_names, "zh", "ffn", "bert.encoder.layer_shared.attention.0.self.query.weight"),
    ],
    ids=["huggingface", "google", "zh", "albert_pytorch", "albert_pytorch-lists"],
)  # fmt: skip
def test_every_parameter_is_mapped(
    names_of: Callable[[AlbertConfig], Names], layout: str, share_type: str, query: str
) -> None:
    config = tiny_config(layout=layout, share_type=share_type)
    with torch.device("meta"):
        own = AlbertForPreTraining(config).state_dict()
    names = names_of(config)
    assert own.keys() <= names.keys()
    theirs = [name for ours in own for name in names[ours]]
    assert len(theirs) == len(set(theirs))
    assert names[ATTENTION] == tuple(query.replace("query", part) for part in ("query", "key", "value"))
