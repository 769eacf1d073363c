"""Exports a model to a folder that HuggingFace's AutoModel and AutoTokenizer can load."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.convert.names import huggingface_names
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.files import write_json
from albert_fast.options import UserError, note
from albert_fast.pretrained import CONFIG, WEIGHTS, PretrainedModel, save_tensors
from albert_fast.sharing import unshare

_OUR_FIELDS = ("layout", "ln_type", "share_type", "final_layer_norm", "real_vocab_size")


def huggingface_group(config: AlbertConfig, layer: int) -> int:
    """HuggingFace's group of a layer. Google's code rounds differently, e.g. with 18 layers in 14 groups."""
    return int(layer / (config.num_hidden_layers / config.num_hidden_groups))


def export_huggingface(model: PretrainedModel, directory: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write config.json, model.safetensors and the tokenizer as transformers would for the class of the same name.

    Raises:
        UserError: HuggingFace's code cannot compute the model: zh layout, pre-LN or mean pooling.
    """
    config = model.config
    if config.extra.get("classifier_pooling") == "mean":
        raise UserError(
            "classifier_pooling=mean cannot be exported to HuggingFace, whose ALBERT classifies the first token's "
            "vector; fine-tune with --pooling first"
        )
    if config.layout != "google":
        raise UserError(
            "layout=zh cannot be exported to HuggingFace, whose ALBERT adds position and token type embeddings before "
            "the projection (at embedding_size) and not after it (at hidden_size); keep our format"
        )
    if config.ln_type != "postln":
        raise UserError("ln_type=preln cannot be exported to HuggingFace, whose ALBERT is post-LN; keep our format")
    shared, state = config, model.state_dict()
    groups = [config.set_index(config.num_hidden_groups, layer, 0) for layer in range(config.num_hidden_layers)]
    if config.share_type != "all" or groups != [huggingface_group(config, layer) for layer in range(len(groups))]:
        shared = config.replace(share_type="all", num_hidden_groups=config.num_hidden_layers)
        state = unshare(state, config, shared)
        note(
            f"HuggingFace's ALBERT shares parameters by groups only: exporting share_type={config.share_type} as "
            f"num_hidden_groups={shared.num_hidden_groups}, with copies of the shared parameters"
        )
    dtype = _dtype(config, state)
    weights = {
        name: part.to(dtype)
        for ours, theirs in huggingface_names(shared).items()
        if ours in state
        for name, part in zip(theirs, state[ours].chunk(len(theirs)), strict=True)
    }
    save_tensors(weights, directory / WEIGHTS)
    fields: dict[str, Any] = {}
    if tokenizer is not None:
        fields = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.cls_id, "eos_token_id": tokenizer.sep_id}
    fields |= {name: value for name, value in shared.to_dict().items() if name not in _OUR_FIELDS}
    fields |= {"model_type": "albert", "architectures": [type(model).__name__]}  # same class names as HuggingFace
    fields["dtype"] = str(dtype).removeprefix("torch.")
    fields.pop("torch_dtype", None)  # older name of dtype
    write_json(directory / CONFIG, fields)


def _dtype(config: AlbertConfig, state: dict[str, Tensor]) -> torch.dtype:
    """The dtype stated in the config if it represents every weight exactly, else float32."""
    name = config.extra.get("dtype") or config.extra.get("torch_dtype")
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(str(name), torch.float32)
    exact = all(torch.equal(tensor, tensor.to(dtype).float()) for tensor in state.values())
    return dtype if exact else torch.float32
