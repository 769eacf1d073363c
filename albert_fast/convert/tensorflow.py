"""Reads the TensorFlow checkpoints of albert_zh and Google's ALBERT."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.convert.names import rename_layer_norms, tensorflow_names
from albert_fast.convert.source import Source, adapt_projection, refuse_plain_bert
from albert_fast.convert.tensor_bundle import TensorBundle, TensorEntry
from albert_fast.convert.unwrap import unwrapped
from albert_fast.options import UserError

_AVERAGE = "ExponentialMovingAverage"
# Adafactor's slots are means over rows and columns, so their shapes differ from the variable's.
_FACTORED = ("vr", "vc")


def read_tensorflow(index: Path, stated: AlbertConfig, use_averages: bool = False) -> Source:
    """Read a TensorFlow checkpoint; `use_averages` selects the moving averages of the variables that have one."""
    bundle = TensorBundle(index)
    bundle.verify()
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in bundle.entries:
        raise UserError(
            f"{index} is a TensorFlow 2 object checkpoint; give a TensorFlow 1 one, as of albert_zh or Google"
        )
    slots = find_slots(bundle.entries)
    kept, remarks = _without(bundle, slots)
    # If a checkpoint contains only averages, they are used as the variables.
    bare, more = unwrapped({name.removesuffix(f"/{_AVERAGE}"): name for name in kept}, index)
    google = any(name.startswith("bert/encoder/transformer/group_") for name in bare)
    if not google and not any(name.startswith("bert/encoder/layer_") for name in bare):
        first = ", ".join(list(bundle.entries)[:4])
        raise UserError(f"{index} is not an ALBERT of albert_zh or Google (variables {first}, ...); give one of these")
    averaged = {name for name in kept if _AVERAGE in slots.get(name, ())} if use_averages else set()
    if use_averages and not averaged:
        raise UserError(f"{index} contains no {_AVERAGE}; omit --use_averages")
    renamed = rename_layer_norms(list(bare))
    weights = {}
    for plain, name in bare.items():
        tensor = torch.from_numpy(bundle.read(f"{name}/{_AVERAGE}" if name in averaged else name))
        transposed = plain.endswith(("/kernel", "/word_embeddings_2")) and tensor.dim() == 2
        weights[renamed.get(plain, plain)] = tensor.t() if transposed else tensor
    if averaged:
        remarks.append(f"used the {_AVERAGE} of {len(averaged)} of {len(kept)} variables")
    return _source(index, stated, weights, google, remarks + more)


def find_slots(entries: Mapping[str, TensorEntry]) -> dict[str, list[str]]:
    """Suffixes of each variable's optimizer slots and averages: adam_m if X has X/adam_m, for example.

    ALBERT's variables are the leaves of their scopes, so a variable of the same shape whose name extends another's is
    not part of the model, whatever its suffix. Mesh TensorFlow writes X_slot_vr.
    """
    slots: dict[str, list[str]] = {}
    for name, entry in entries.items():
        edges = [place for place, mark in enumerate(name) if mark in "/_"]
        base = next((name[:edge] for edge in reversed(edges) if name[:edge] in entries), "")
        suffix = name[len(base) + 1 :]
        if base and (entry.shape == entries[base].shape or suffix.removeprefix("slot_") in _FACTORED):
            slots.setdefault(base, []).append(suffix)
    return slots


def _without(bundle: TensorBundle, slots: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The variables that are neither slots nor scalars, and remarks on the skipped ones."""
    below = {f"{base}{mark}{suffix}" for base, suffixes in slots.items() for suffix in suffixes for mark in "/_"}
    scalars = [name for name, entry in bundle.entries.items() if entry.shape == ()]  # global_step, beta1_power, ...
    kept = [name for name in bundle.entries if name not in below and name not in scalars]
    remarks = [f"skipped {', '.join(scalars)} (not weights)"] if scalars else []
    counts = Counter(suffix for suffixes in slots.values() for suffix in suffixes)
    if counts:
        listed = ", ".join(f"{suffix} of {count} variables" for suffix, count in sorted(counts.items()))
        hint = "; --use_averages selects the averages" if _AVERAGE in counts else ""
        remarks.append(f"skipped slots and averages: {listed}{hint}")
    return kept, remarks


def _source(index: Path, stated: AlbertConfig, weights: dict[str, Tensor], google: bool, remarks: list[str]) -> Source:
    """Build the Source from the variables, whose matrices are already [out, in]."""
    shared = google or any(name.startswith("bert/encoder/layer_shared/") for name in weights)
    if not shared:
        refuse_plain_bert(index, stated, weights.get("bert/embeddings/word_embeddings"))
    if {"output_weights", "output_bias"} <= weights.keys():  # run_classifier.py of both projects
        weights["classifier.weight"], weights["classifier.bias"] = map(weights.pop, ("output_weights", "output_bias"))
    config = stated.replace(layout="google" if google else "zh", share_type="all" if shared else "None")
    if config.hidden_act == "gelu":
        config = config.replace(hidden_act="gelu_new")
        remarks.append('hidden_act: "gelu" is the tanh approximation in TensorFlow\'s code, written as gelu_new')
    remarks += adapt_projection(config, weights, "bert/embeddings/word_embeddings", "bert/embeddings/word_embeddings_2")
    layers, groups = config.num_hidden_layers, config.num_hidden_groups
    layer_group = (lambda layer: int(layer / layers * groups)) if google else None  # modeling.py, transformer_model
    return Source(
        path=index, project="Google's ALBERT in TensorFlow" if google else "albert_zh in TensorFlow", stated=stated,
        config=config, weights=weights, names=tensorflow_names(config), layer_group=layer_group, remarks=remarks,
    )  # fmt: skip
