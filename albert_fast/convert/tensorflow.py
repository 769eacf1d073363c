"""Reads the checkpoints of albert_zh and of Google's ALBERT, which are TensorFlow's."""

from __future__ import annotations

from pathlib import Path

import torch

from albert_fast.config import AlbertConfig
from albert_fast.convert.names import OPTIMIZER_SLOTS, rename_layer_norms, tensorflow_names
from albert_fast.convert.source import Source, adapt_projection
from albert_fast.convert.tensor_bundle import TensorBundle
from albert_fast.options import UserError

_STEPS = ("global_step", "beta1_power", "beta2_power")


def read_tensorflow(index: Path, asked: AlbertConfig) -> Source:
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
    remarks += adapt_projection(config, weights, "bert/embeddings/word_embeddings", "bert/embeddings/word_embeddings_2")
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
