"""Small random checkpoints in the formats of other projects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.bundles import write_bundle
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.convert.names import Names, huggingface_names, tensorflow_names
from albert_fast.model import AlbertForPreTraining

SIZES = {
    "vocab_size": 50, "embedding_size": 8, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_hidden_layers": 2, "max_position_embeddings": 40,
}  # fmt: skip


def _renamed(names: Names, config: AlbertConfig) -> dict[str, Tensor]:
    """Random weights under the names of another project, with query, key and value separate."""
    torch.manual_seed(0)
    state = AlbertForPreTraining(config).state_dict()
    return {
        name: part
        for ours, theirs in names.items()
        if ours in state
        for name, part in zip(theirs, torch.randn_like(state[ours]).chunk(len(theirs)), strict=True)
    }


def google_variables(**changes: Any) -> dict[str, np.ndarray]:
    """TensorFlow variables (matrices [in, out]) of Google's ALBERT, or of albert_zh with layout="zh"."""
    config = AlbertConfig(**(SIZES | {"layout": "google"} | changes))
    weights = _renamed(tensorflow_names(config), config)
    transposed = ("/kernel", "/word_embeddings_2")
    return {name: (w.t() if name.endswith(transposed) else w).contiguous().numpy() for name, w in weights.items()}


def write_google(folder: Path, variables: dict[str, np.ndarray], **changes: Any) -> Path:
    """Write a checkpoint of `variables` and its config; returns its prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bundle(folder / "model.ckpt", variables)
    (folder / "albert_config.json").write_text(json.dumps(SIZES | {"hidden_act": "gelu"} | changes))
    return folder / "model.ckpt"


def huggingface_weights(**changes: Any) -> dict[str, Tensor]:
    """The weights of HuggingFace's AlbertForPreTraining, without its copies of tied weights."""
    config = AlbertConfig(**(SIZES | {"layout": "google"} | changes))
    return _renamed(huggingface_names(config), config)


def write_huggingface(folder: Path, held: Any, name: str = "pytorch_model.bin", **config: Any) -> Path:
    """Write a folder with `held` as the weights file, and HuggingFace's config."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(held, folder / name)
    stated = {"model_type": "albert", "hidden_act": "gelu_new", **SIZES, **config}
    (folder / "config.json").write_text(json.dumps(stated))
    return folder
