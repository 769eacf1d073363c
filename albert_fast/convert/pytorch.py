"""Reads PyTorch checkpoints of HuggingFace, albert_pytorch and albert_fast."""

import re
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.convert.files import read_torch
from albert_fast.convert.huggingface import huggingface_group
from albert_fast.convert.names import albert_pytorch_names, huggingface_names
from albert_fast.convert.source import Source, adapt_projection, refuse_plain_bert
from albert_fast.options import UserError

_BUFFERS = (".position_ids", ".token_type_ids")


def read_pytorch(file: Path, stated: AlbertConfig, use_averages: bool = False) -> Source:
    """Read a .safetensors or .bin file, whose project is detected from its names; `use_averages` selects averages."""
    weights, remarks = read_torch(file, use_averages)
    for mark, read in (
        ("albert.encoder.attention.", _ours),
        ("albert_layer_groups.", _huggingface),
        ("bert.encoder.layer", _albert_pytorch),
    ):
        if any(mark in name for name in weights):
            source = read(file, stated, weights)
            source.remarks = remarks + source.remarks
            return source
    raise UserError(f"{file} is not a known ALBERT (weights {', '.join(sorted(weights)[:4])}, ...); give another file")


def _ours(file: Path, stated: AlbertConfig, weights: dict[str, Tensor]) -> Source:
    return Source(path=file, project="albert_fast", stated=stated, config=stated, weights=weights)


def _huggingface(file: Path, stated: AlbertConfig, weights: dict[str, Tensor]) -> Source:
    config = stated.replace(layout="google", share_type="all")
    # AlbertModel saved on its own, or under another attribute name such as bert
    base = next((name.split("embeddings.")[0] for name in weights if "embeddings.word_embeddings." in name), "albert.")
    parts = tuple(f"{base}{part}." for part in ("embeddings", "encoder", "pooler"))
    weights = {
        f"albert.{name.removeprefix(base)}" if name.startswith(parts) else name: tensor
        for name, tensor in weights.items()
    }
    remarks = _skip_buffers(weights)
    if "predictions.bias" not in weights and "predictions.decoder.bias" in weights:
        weights["predictions.bias"] = weights.pop("predictions.decoder.bias")
    word = weights.get("albert.embeddings.word_embeddings.weight")
    remarks += _drop_tie(weights, "predictions.decoder.weight", "albert.embeddings.word_embeddings.weight", word)
    remarks += _drop_tie(weights, "predictions.decoder.bias", "predictions.bias", weights.get("predictions.bias"))
    return Source(
        path=file, project="HuggingFace", stated=stated, config=config, weights=weights,
        names=huggingface_names(config), layer_group=partial(huggingface_group, config), remarks=remarks,
    )  # fmt: skip


def _albert_pytorch(file: Path, stated: AlbertConfig, weights: dict[str, Tensor]) -> Source:
    if not any(name.startswith("bert.encoder.layer_shared.") for name in weights):
        refuse_plain_bert(file, stated, weights.get("bert.embeddings.word_embeddings.weight"))
    attention = "bert.encoder.layer_shared.attention.self.query.weight" in weights
    feed_forward = "bert.encoder.layer_shared.intermediate.dense.weight" in weights
    share_type = {(True, True): "all", (False, True): "ffn", (True, False): "attention"}.get((attention, feed_forward))
    config = stated.replace(layout="zh", share_type=share_type or "None")
    weights = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)): t for name, t in weights.items()}
    remarks = _skip_buffers(weights)
    word, second = "bert.embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings_2.weight"
    projection = weights[second].t() if second in weights else None
    remarks += _drop_tie(weights, "cls.predictions.decoder.weight", word, weights.get(word))
    remarks += _drop_tie(weights, "cls.predictions.project_layer.weight", f"the transpose of {second}", projection)
    remarks += adapt_projection(config, weights, word, second)
    return Source(
        path=file, project="albert_pytorch", stated=stated, config=config, weights=weights,
        names=albert_pytorch_names(config), remarks=remarks,
    )  # fmt: skip


def _skip_buffers(weights: dict[str, Tensor]) -> list[str]:
    buffers = [name for name in weights if name.endswith(_BUFFERS)]
    for name in buffers:
        del weights[name]
    return [f"skipped {', '.join(buffers)} (no weights)"] if buffers else []


def _drop_tie(weights: dict[str, Tensor], name: str, tied_name: str, tied: Tensor | None) -> list[str]:
    """Remove `name`, which should be a copy of a tied weight; the remark tells whether it was."""
    if name not in weights or tied is None:
        return []
    copy = weights.pop(name)
    if copy.shape != tied.shape:
        raise UserError(f"{name} {list(copy.shape)} should equal {tied_name} {list(tied.shape)}, to which ours is tied")
    if torch.equal(copy, tied):
        return [f"{name} equals {tied_name}; ours is tied"]
    difference = (copy.float() - tied.float()).abs().max().item()
    return [
        f"WARNING: {name} differs from {tied_name} by up to {difference:.3g}; ours is tied, so masked-token "
        "predictions will differ from the source's (hidden states will not)"
    ]
