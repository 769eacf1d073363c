"""What is known of a checkpoint once it is read: its project, config, weights and how ours are made of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.convert.names import Names
from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError


@dataclass(kw_only=True)
class Source:
    """A checkpoint as read.

    asked: the config as its file states it; config: the same with the layout and sharing of the weights themselves.
    weights: under the project's names, matrices [out, in]; names: ours to the project's (absent: the same).
    layer_group: the project's own rule for the group of a layer, where it may differ from the config's.
    """

    path: Path
    project: str
    asked: AlbertConfig
    config: AlbertConfig
    weights: dict[str, Tensor]
    names: Names = field(default_factory=dict)
    layer_group: Callable[[int], int] | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def model_class(self) -> type[AlbertForPreTraining] | type[AlbertForSequenceClassification]:
        """What the weights are of: a fine-tuned classifier where they have one, else the pretraining model."""
        return AlbertForSequenceClassification if "classifier.weight" in self.weights else AlbertForPreTraining

    @property
    def wanted_share_type(self) -> str:
        """What the config file asks for: a share_type other than all there is a wish to unshare."""
        return self.asked.share_type if self.asked.share_type != "all" else self.config.share_type

    def set_index(self, num_sets: int, layer: int, inner: int) -> int:
        """Which of its `num_sets` sets of weights layer `layer`, inner layer `inner` uses."""
        if self.layer_group is None:
            return self.config.set_index(num_sets, layer, inner)
        return self.layer_group(layer) * self.config.inner_group_num + inner


def adapt_projection(config: AlbertConfig, weights: dict[str, Tensor], word: str, second: str) -> list[str]:
    """Where E == H, Google's code has no projection and our google layout has; albert_zh's has one, our zh has not."""
    if config.embedding_size != config.hidden_size:
        return []
    mapping = "bert/encoder/embedding_hidden_mapping_in"
    if config.layout == "google" and f"{mapping}/kernel" not in weights:
        weights[f"{mapping}/kernel"] = torch.eye(config.hidden_size)
        weights[f"{mapping}/bias"] = torch.zeros(config.hidden_size)
        return ["embedding_size equals hidden_size: the projection is the identity"]
    if config.layout == "zh" and second in weights and word in weights:
        weights[word] = (weights[word].double() @ weights.pop(second).double().t()).float()
        return [f"embedding_size equals hidden_size: {second} is multiplied into the word embeddings"]
    return []


def refuse_plain_bert(file: Path, asked: AlbertConfig, words: Tensor | None) -> None:
    """UserError for a BERT: layers of their own and words as wide as the hidden states, though no config asked for it.

    albert_zh and albert_pytorch name the layers of a model that shares nothing in the same way.
    """
    width = None if words is None else words.shape[-1]
    if asked.extra.get("model_type") == "bert" or (width == asked.hidden_size != asked.embedding_size):
        raise UserError(
            f"{file} is a plain BERT, not an ALBERT: every layer has its own weights and word embeddings are "
            f"{width} wide, as hidden states are; give an ALBERT"
        )
