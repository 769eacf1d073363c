"""Recognises the checkpoints of other projects, and ours, and reads each under its own names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.convert.files import find_checkpoint, find_config, read_torch
from albert_fast.convert.huggingface import huggingface_group
from albert_fast.convert.names import (
    OPTIMIZER_SLOTS,
    Names,
    albert_pytorch_names,
    huggingface_names,
    rename_layer_norms,
    tensorflow_names,
)
from albert_fast.convert.tensor_bundle import TensorBundle
from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError

_STEPS = ("global_step", "beta1_power", "beta2_power")
_BUFFERS = (".position_ids", ".token_type_ids")


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


def read_checkpoint(path: Path, config: str | None) -> Source:
    """The checkpoint at `path`: a TensorFlow prefix, a weights file, or the folder of either."""
    file = find_checkpoint(path)
    asked = AlbertConfig.from_pretrained(find_config(config, file.parent))
    if file.suffix == ".index":
        return _with_class_names(_read_tensorflow(file, asked))
    weights = read_torch(file)
    for mark, read in (
        ("albert.encoder.attention.", _ours),
        ("albert_layer_groups.", _huggingface),
        ("bert.encoder.layer", _albert_pytorch),
    ):
        if any(mark in name for name in weights):
            return _with_class_names(read(file, asked, weights))
    raise UserError(f"{file} holds no ALBERT that we know; its first names are {', '.join(sorted(weights)[:4])}")


def _with_class_names(source: Source) -> Source:
    """Numbers for names where a classifier's config has none; the other projects' often have not."""
    if "classifier.weight" in source.weights and not source.config.extra.get("id2label"):
        names = {str(i): str(i) for i in range(source.weights["classifier.weight"].shape[0])}
        source.config = source.config.replace(extra={**source.config.extra, "id2label": names})
        source.remarks.append(f"the config names no classes; they are called {', '.join(names)}")
    return source


def _ours(file: Path, asked: AlbertConfig, weights: dict[str, Tensor]) -> Source:
    return Source(path=file, project="albert_fast", asked=asked, config=asked, weights=weights)


def _read_tensorflow(index: Path, asked: AlbertConfig) -> Source:
    bundle = TensorBundle(index)
    bundle.verify()
    entries = bundle.entries
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in entries:
        raise UserError(f"{index} is a TensorFlow 2 object checkpoint; albert_zh's and Google's hold plain variables")
    google = any(name.startswith("bert/encoder/transformer/group_") for name in entries)
    if not google and not any(name.startswith("bert/encoder/layer_") for name in entries):
        raise UserError(
            f"{index} is no ALBERT of albert_zh or Google; its first names are {', '.join(list(entries)[:4])}"
        )
    slots: dict[str, list[str]] = {}
    for name in entries:
        base, _, last = name.rpartition("/")
        if last in OPTIMIZER_SLOTS and base in entries:
            slots.setdefault(base, []).append(last)
    skipped = {f"{base}/{slot}" for base, found in slots.items() for slot in found} | {*_STEPS} & {*entries}
    kept = [name for name in entries if name not in skipped]
    renamed = rename_layer_norms(kept)
    weights = {}
    for name in kept:
        tensor = torch.from_numpy(bundle.read(name))
        transposed = name.endswith(("/kernel", "/word_embeddings_2")) and tensor.dim() == 2
        weights[renamed.get(name, name)] = tensor.t() if transposed else tensor

    if {"output_weights", "output_bias"} <= weights.keys():  # run_classifier.py of both projects
        weights["classifier.weight"], weights["classifier.bias"] = (
            weights.pop(f"output_{k}") for k in ("weights", "bias")
        )
    shared = google or any(name.startswith("bert/encoder/layer_shared/") for name in kept)
    config = asked.replace(layout="google" if google else "zh", share_type="all" if shared else "None")
    remarks = [f"skipped {name} (no weight)" for name in entries if name in _STEPS]
    for kinds in sorted({tuple(found) for found in slots.values()}):
        bases = [base for base, found in slots.items() if tuple(found) == kinds]
        remarks.append(f"skipped the optimizer's {' and '.join(kinds)} of {', '.join(bases)}")
    if config.hidden_act == "gelu":
        config = config.replace(hidden_act="gelu_new")
        remarks.append('hidden_act: "gelu" means the tanh form in TensorFlow\'s code, so the config says gelu_new')
    remarks += _adapt_projection(
        config, weights, "bert/embeddings/word_embeddings", "bert/embeddings/word_embeddings_2"
    )
    layers, groups = config.num_hidden_layers, config.num_hidden_groups
    rule = (lambda layer: int(layer / layers * groups)) if google else None  # modeling.py, transformer_model
    return Source(
        path=index,
        project="Google's ALBERT in TensorFlow" if google else "albert_zh in TensorFlow",
        asked=asked,
        config=config,
        weights=weights,
        names=tensorflow_names(config),
        layer_group=rule,
        remarks=remarks,
    )


def _huggingface(file: Path, asked: AlbertConfig, weights: dict[str, Tensor]) -> Source:
    config = asked.replace(layout="google", share_type="all")
    if not any(name.startswith("albert.") for name in weights):  # saved from AlbertModel, without heads
        weights = {f"albert.{name}": tensor for name, tensor in weights.items()}
    remarks = _skip_buffers(weights)
    if "predictions.bias" not in weights and "predictions.decoder.bias" in weights:
        weights["predictions.bias"] = weights.pop("predictions.decoder.bias")
    word = weights.get("albert.embeddings.word_embeddings.weight")
    remarks += _drop_tie(weights, "predictions.decoder.weight", "albert.embeddings.word_embeddings.weight", word)
    remarks += _drop_tie(weights, "predictions.decoder.bias", "predictions.bias", weights.get("predictions.bias"))
    return Source(
        path=file,
        project="HuggingFace",
        asked=asked,
        config=config,
        weights=weights,
        names=huggingface_names(config),
        layer_group=partial(huggingface_group, config),
        remarks=remarks,
    )


def _albert_pytorch(file: Path, asked: AlbertConfig, weights: dict[str, Tensor]) -> Source:
    attention = "bert.encoder.layer_shared.attention.self.query.weight" in weights
    feed_forward = "bert.encoder.layer_shared.intermediate.dense.weight" in weights
    share_type = {(True, True): "all", (False, True): "ffn", (True, False): "attention"}.get((attention, feed_forward))
    config = asked.replace(layout="zh", share_type=share_type or "None")
    weights = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)): t for name, t in weights.items()}
    remarks = _skip_buffers(weights)
    word, second = "bert.embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings_2.weight"
    projection = weights[second].t() if second in weights else None
    remarks += _drop_tie(weights, "cls.predictions.decoder.weight", word, weights.get(word))
    remarks += _drop_tie(weights, "cls.predictions.project_layer.weight", f"the transpose of {second}", projection)
    remarks += _adapt_projection(config, weights, word, second)
    return Source(
        path=file,
        project="albert_pytorch",
        asked=asked,
        config=config,
        weights=weights,
        names=albert_pytorch_names(config),
        remarks=remarks,
    )


def _skip_buffers(weights: dict[str, Tensor]) -> list[str]:
    buffers = [name for name in weights if name.endswith(_BUFFERS)]
    for name in buffers:
        del weights[name]
    return [f"skipped {', '.join(buffers)} (no weights)"] if buffers else []


def _drop_tie(weights: dict[str, Tensor], name: str, tied_name: str, tied: Tensor | None) -> list[str]:
    """Takes out `name`, a copy of a tied matrix, and says whether it was one."""
    if name not in weights or tied is None:
        return []
    copy = weights.pop(name)
    if copy.shape != tied.shape:
        raise UserError(f"{name} {list(copy.shape)} should be {tied_name} {list(tied.shape)}, to which ours is tied")
    if torch.equal(copy, tied):
        return [f"{name} equals {tied_name}, to which ours is tied"]
    difference = (copy.float() - tied.float()).abs().max().item()
    return [
        f"WARNING: {name} differs from {tied_name} by up to {difference:.3g}; ours is tied, so the predictions "
        "of masked words will differ from the source's (hidden states will not)"
    ]


def _adapt_projection(config: AlbertConfig, weights: dict[str, Tensor], word: str, second: str) -> list[str]:
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
