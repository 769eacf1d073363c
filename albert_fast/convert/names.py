"""Weight names of albert_zh, Google's ALBERT, albert_pytorch and HuggingFace.

Each function maps our parameter names, for a config, to the names in the other project. Several names (query, key,
value) are concatenated along dimension 0. The config has the checkpoint's own sharing and groups.
"""

import re

from albert_fast.config import AlbertConfig

Names = dict[str, tuple[str, ...]]

_DENSE, _NORM, _TORCH = ("kernel", "bias"), ("gamma", "beta"), ("weight", "bias")


def tensorflow_names(config: AlbertConfig) -> Names:
    """brightmart/albert_zh (layout zh) or google-research/albert (layout google): modeling.py, run_pretraining.py."""
    names: Names = {
        **_embeddings("albert.embeddings", "bert/embeddings"),
        **_module("albert.embeddings.layer_norm", "bert/embeddings/LayerNorm", _NORM),
        **_module("albert.pooler", "bert/pooler/dense", _DENSE),
        **_module("mlm_head.transform", "cls/predictions/transform/dense", _DENSE),
        **_module("mlm_head.layer_norm", "cls/predictions/transform/LayerNorm", _NORM),
        "mlm_head.bias": ("cls/predictions/output_bias",),
        **_module("sop_head", "cls/seq_relationship", ("output_weights", "output_bias")),
    }
    if config.layout == "google":
        names |= _module("albert.embeddings.projection", "bert/encoder/embedding_hidden_mapping_in", _DENSE)
        for i in range(config.num_attention_sets):
            group, inner = divmod(i, config.inner_group_num)
            scope = f"bert/encoder/transformer/group_{group}/inner_group_{inner}"
            names |= _module(f"{_attention(i)}.query_key_value", f"{scope}/attention_1/self/*", _DENSE)
            names |= _module(f"{_attention(i)}.output", f"{scope}/attention_1/output/dense", _DENSE)
            names |= _module(f"{_attention(i)}.layer_norm", f"{scope}/LayerNorm", _NORM)
            names |= _module(f"{_feed_forward(i)}.intermediate", f"{scope}/ffn_1/intermediate/dense", _DENSE)
            names |= _module(f"{_feed_forward(i)}.output", f"{scope}/ffn_1/intermediate/output/dense", _DENSE)
            names |= _module(f"{_feed_forward(i)}.layer_norm", f"{scope}/LayerNorm_1", _NORM)
        return names
    layer = "bert/encoder/layer_shared" if config.share_type == "all" else "bert/encoder/layer_{i}"
    return names | _zh(config, f"{layer}/attention", f"{layer}/intermediate", f"{layer}/output")


def albert_pytorch_names(config: AlbertConfig) -> Names:
    """lonePatient/albert_pytorch, model/modeling_albert.py: albert_zh's names with dots, lists where layers differ."""
    shared = "bert/encoder/layer_shared"
    attention, intermediate, output = {
        "all": (f"{shared}/attention", f"{shared}/intermediate", f"{shared}/output"),
        "ffn": (f"{shared}/attention/{{i}}", f"{shared}/intermediate", f"{shared}/output"),
        "attention": (f"{shared}/attention", f"{shared}/intermediate/{{i}}", f"{shared}/output/{{i}}"),
        "None": tuple(f"bert/encoder/layer/{{i}}/{part}" for part in ("attention", "intermediate", "output")),
    }[config.share_type]
    outer = {ours: theirs for ours, theirs in tensorflow_names(config).items() if ".encoder." not in ours}
    names = outer | _zh(config, attention, intermediate, output)
    return {ours: tuple(_torch_name(name) for name in theirs) for ours, theirs in names.items()}


def huggingface_names(config: AlbertConfig) -> Names:
    """huggingface/transformers, models/albert/modeling_albert.py, with all heads."""
    names: Names = {
        **_embeddings("albert.embeddings", "albert/embeddings", "/weight"),
        **_module("albert.embeddings.layer_norm", "albert/embeddings/LayerNorm"),
        **_module("albert.embeddings.projection", "albert/encoder/embedding_hidden_mapping_in"),
        **_module("albert.pooler", "albert/pooler"),
        **_module("mlm_head.transform", "predictions/dense"),
        **_module("mlm_head.layer_norm", "predictions/LayerNorm"),
        "mlm_head.bias": ("predictions/bias",),
        **_module("sop_head", "sop_classifier/classifier"),
        **_module("classifier", "classifier"),
    }
    for i in range(config.num_attention_sets):
        group, inner = divmod(i, config.inner_group_num)
        layer = f"albert/encoder/albert_layer_groups/{group}/albert_layers/{inner}"
        names |= _module(f"{_attention(i)}.query_key_value", f"{layer}/attention/*")
        names |= _module(f"{_attention(i)}.output", f"{layer}/attention/dense")
        names |= _module(f"{_attention(i)}.layer_norm", f"{layer}/attention/LayerNorm")
        names |= _module(f"{_feed_forward(i)}.intermediate", f"{layer}/ffn")
        names |= _module(f"{_feed_forward(i)}.output", f"{layer}/ffn_output")
        names |= _module(f"{_feed_forward(i)}.layer_norm", f"{layer}/full_layer_layer_norm")
    return {ours: tuple(name.replace("/", ".") for name in theirs) for ours, theirs in names.items()}


def rename_layer_norms(names: list[str]) -> dict[str, str]:
    """Map differently numbered or Keras-style LayerNorm names to LayerNorm, LayerNorm_1, ... within each scope.

    Later TensorFlow versions name them layer_normalization_7, for example; the order within a scope is the same.
    """
    numbered = re.compile(r"(.*/)(?:LayerNorm|layer_normalization)(?:_(\d+))?/(gamma|beta)")
    found = {name: match for name in names if (match := numbered.fullmatch(name))}
    numbers: dict[str, set[int]] = {}
    for match in found.values():
        numbers.setdefault(match[1], set()).add(int(match[2] or 0))
    renamed = {}
    for name, match in found.items():
        rank = sorted(numbers[match[1]]).index(int(match[2] or 0))
        renamed[name] = f"{match[1]}LayerNorm{f'_{rank}' if rank else ''}/{match[3]}"
    return renamed


def _attention(i: int) -> str:
    return f"albert.encoder.attention.{i}"


def _feed_forward(i: int) -> str:
    return f"albert.encoder.feed_forward.{i}"


def _module(ours: str, theirs: str, leaves: tuple[str, str] = _TORCH) -> Names:
    """Weight and bias of one module; `*` in `theirs` expands to query, key and value."""
    parts = [theirs.replace("*", part) for part in ("query", "key", "value")] if "*" in theirs else [theirs]
    return {
        f"{ours}.{own}": tuple(f"{part}/{leaf}" for part in parts) for own, leaf in zip(_TORCH, leaves, strict=True)
    }


def _embeddings(ours: str, theirs: str, leaf: str = "") -> Names:
    kinds = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    return {f"{ours}.{kind}.weight": (f"{theirs}/{kind}{leaf}",) for kind in kinds}


def _zh(config: AlbertConfig, attention: str, intermediate: str, output: str) -> Names:
    """The zh projection and layers; {i} in the three scopes is the layer index."""
    names: Names = {}
    if config.embedding_size != config.hidden_size:
        names["albert.embeddings.projection.weight"] = ("bert/embeddings/word_embeddings_2",)
    for i in range(config.num_attention_sets):
        scope = attention.format(i=i)
        names |= _module(f"{_attention(i)}.query_key_value", f"{scope}/self/*", _DENSE)
        names |= _module(f"{_attention(i)}.output", f"{scope}/output/dense", _DENSE)
        names |= _module(f"{_attention(i)}.layer_norm", f"{scope}/output/LayerNorm", _NORM)
    for i in range(config.num_feed_forward_sets):
        names |= _module(f"{_feed_forward(i)}.intermediate", f"{intermediate.format(i=i)}/dense", _DENSE)
        names |= _module(f"{_feed_forward(i)}.output", f"{output.format(i=i)}/dense", _DENSE)
        names |= _module(f"{_feed_forward(i)}.layer_norm", f"{output.format(i=i)}/LayerNorm", _NORM)
    return names


def _torch_name(name: str) -> str:
    """The name of a TensorFlow variable in a PyTorch port with the same module tree."""
    scope, leaf = name.rsplit("/", 1)
    if leaf.endswith(("_embeddings", "_embeddings_2")):
        scope, leaf = name, "weight"
    leaf = {"kernel": "weight", "gamma": "weight", "output_weights": "weight"}.get(leaf, leaf)
    leaf = {"beta": "bias", "output_bias": "bias"}.get(leaf, leaf)
    return f"{scope}/{leaf}".replace("/", ".")
