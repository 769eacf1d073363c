"""A checkpoint after reading: its project, config and weights, and their mapping to ours."""

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

    stated: the config as written in its file; config: the same with the actual layout and sharing of the weights.
    weights: by the project's names, matrices [out, in]; names: our names to the project's (absent: identical).
    layer_group: the project's rule for the group of a layer, if it can differ from ours.
    """

    path: Path
    project: str
    stated: AlbertConfig
    config: AlbertConfig
    weights: dict[str, Tensor]
    names: Names = field(default_factory=dict)
    layer_group: Callable[[int], int] | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def model_class(self) -> type[AlbertForPreTraining] | type[AlbertForSequenceClassification]:
        """The class to load the weights into: a classifier if they include one, else the pretraining model."""
        return AlbertForSequenceClassification if "classifier.weight" in self.weights else AlbertForPreTraining

    @property
    def wanted_share_type(self) -> str:
        """The share_type of the config file, unless it is the default "all"; then that of the weights."""
        return self.stated.share_type if self.stated.share_type != "all" else self.config.share_type

    def set_index(self, num_sets: int, layer: int, inner: int) -> int:
        """Index of the parameter set, out of `num_sets`, used by inner layer `inner` of layer `layer`."""
        if self.layer_group is None:
            return self.config.set_index(num_sets, layer, inner)
        return self.layer_group(layer) * self.config.inner_group_num + inner


def adapt_projection(config: AlbertConfig, weights: dict[str, Tensor], word: str, second: str) -> list[str]:
    """For E == H, add the projection that Google's code omits but our google layout has, or fold in albert_zh's."""
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


def refuse_plain_bert(file: Path, stated: AlbertConfig, words: Tensor | None) -> None:
    """UserError if a checkpoint without shared layers is a BERT: word embeddings of hidden_size against the config.

    The layer names do not tell, because albert_zh and albert_pytorch use BERT's names for unshared models.
    """
    width = None if words is None else words.shape[-1]
    if stated.extra.get("model_type") == "bert" or (width == stated.hidden_size != stated.embedding_size):
        raise UserError(
            f"{file} is a plain BERT, not an ALBERT: its layers share no weights and its word embeddings have the "
            f"hidden size {width}; give an ALBERT"
        )
