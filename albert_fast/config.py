"""Settings of the model, the data and the training: frozen dataclasses, checked on construction."""

from __future__ import annotations

import difflib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from albert_fast.options import DeviceOptions, Options, UserError, check_choice, check_options, note, option

ShareType = Literal["all", "ffn", "attention", "None"]
LnType = Literal["postln", "preln"]
Layout = Literal["zh", "google"]
HiddenAct = Literal["gelu", "gelu_new", "relu"]

# Shapes: google-research/albert (large, xlarge, xxlarge as in Lan et al. 2019, table 1) and albert_zh (tiny, small).
PRESETS: dict[str, dict[str, int]] = {
    name: dict(zip(("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"), row, strict=True))
    for name, row in {
        "tiny": (312, 4, 12, 1248),
        "small": (384, 6, 12, 1536),
        "base": (768, 12, 12, 3072),
        "large": (1024, 24, 16, 4096),
        "xlarge": (2048, 24, 16, 8192),
        "xxlarge": (4096, 12, 64, 16384),
    }.items()
}

# Keys written by the TensorFlow projects and HuggingFace that do not change the model: kept silently.
_INERT_KEYS = frozenset(
    """directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    net_structure_type gap_size num_memory_blocks down_scale_factor architectures model_type bos_token_id eos_token_id
    pad_token_id transformers_version torch_dtype dtype classifier_dropout_prob position_embedding_type id2label
    label2id classifier_pooling problem_type use_cache output_attentions output_hidden_states return_dict is_decoder
    add_cross_attention tie_word_embeddings chunk_size_feed_forward finetuning_task _name_or_path num_labels _num_labels
    classifier_dropout tokenizer_class output_past pruned_heads torchscript use_bfloat16 gradient_checkpointing
    initializer_factor task_specific_params""".split()  # noqa: SIM905
)


@dataclass(frozen=True, kw_only=True)
class AlbertConfig:
    """ALBERT's hyperparameters under the names of the published configs; checked on construction.

    `layout` is the order of the embeddings. zh (albert_zh, albert_pytorch): token embeddings of width E projected to H,
    plus position and token-type embeddings of width H, then LayerNorm. google: all three of width E, LayerNorm, then
    the projection. `real_vocab_size` is the number of ids that have a token if the vocabulary was padded to vocab_size
    (to a multiple of 8 or 64, say); padding ids are never predicted.
    """

    hidden_size: int = option(at_least=1)
    num_hidden_layers: int = option(at_least=1)
    num_attention_heads: int = option(at_least=1)
    intermediate_size: int = option(at_least=1)
    vocab_size: int = option(21128, at_least=1)
    embedding_size: int = option(128, at_least=1)
    num_hidden_groups: int = option(1, at_least=1)
    inner_group_num: int = option(1, at_least=1)
    max_position_embeddings: int = option(512, at_least=1)
    type_vocab_size: int = option(2, at_least=1)
    hidden_act: HiddenAct = "gelu"
    hidden_dropout_prob: float = option(0.0, at_least=0, below=1)
    attention_probs_dropout_prob: float = option(0.0, at_least=0, below=1)
    initializer_range: float = option(0.02, at_least=0, below=1)
    layer_norm_eps: float = option(1e-12, at_least=0, below=1)
    ln_type: LnType = "postln"
    share_type: ShareType = "all"
    layout: Layout = "zh"
    final_layer_norm: bool = False
    real_vocab_size: int | None = option(None, at_least=1)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.share_type is None:  # null in JSON, None in albert_pytorch
            object.__setattr__(self, "share_type", "None")
        if self.hidden_act == "gelu_pytorch_tanh":  # HuggingFace's other name for the same function
            object.__setattr__(self, "hidden_act", "gelu_new")
        check_options(self)
        heads, size = self.num_attention_heads, self.hidden_size
        if size % heads:
            near = min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: abs(n - heads))
            raise UserError(f"num_attention_heads={heads} does not divide hidden_size={size}; use {near}")
        if (self.real_vocab_size or 0) > self.vocab_size:
            padded = f"vocab_size={self.vocab_size}"
            raise UserError(f"real_vocab_size={self.real_vocab_size} is more than {padded}, which includes the padding")
        groups, layers = self.num_hidden_groups, self.num_hidden_layers
        if groups > layers:
            raise UserError(f"num_hidden_groups={groups} is more than num_hidden_layers={layers}; use at most {layers}")

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> AlbertConfig:
        """The preset `name` (see PRESETS), with fields replaced by `overrides`."""
        check_choice("config", name, tuple(PRESETS))
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_pretrained(cls, path: str | Path, **overrides: Any) -> AlbertConfig:
        """Read a config JSON of albert_pytorch, albert_zh, Google, HuggingFace or ours; `path` may be its folder.

        Unknown keys are kept in `extra` with a note; a key that looks like a misspelt known one is refused.
        """
        file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
        try:
            raw = json.loads(file.read_text(encoding="utf-8-sig"))
        except OSError as error:
            presets = ", ".join(PRESETS)
            reason = error.strerror or error
            raise UserError(f"config {file}: {reason}; give a JSON file, its folder, or one of {presets}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"config {file} is not valid JSON ({error}); remove comments, if any") from None
        if not isinstance(raw, dict) or not isinstance(raw.get("extra", {}), dict):
            raise UserError(f"config {file} must be a JSON object, and so must its `extra`")
        if "hidden_size" not in raw and (inner := _inner_config(raw)):
            note(f"config {file}: using the model's config under {inner[0]}")
            raw = inner[1]
        if raw.get("model_type") == "albert" and "layout" not in raw:
            raw["layout"] = "google"
        known = {f.name for f in fields(cls)}
        extra = dict(raw.pop("extra", {}))
        for key in [key for key in raw if key not in known]:
            if key not in _INERT_KEYS:
                close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
                if close and abs(len(close[0]) - len(key)) <= 2:
                    raise UserError(f"config {file}: unknown key {key!r}; did you mean {close[0]!r}?")
                note(f"config {file}: unknown key {key!r} is kept and has no effect")
            extra[key] = raw.pop(key)
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        missing = [name for name in missing if name not in raw and name not in overrides]
        if missing:
            raise UserError(f"config {file} has no {', '.join(missing)}; add the missing keys")
        try:
            return cls(**{**raw, "extra": extra, **overrides})
        except UserError as error:
            raise UserError(f"config {file}: {error}") from None

    def replace(self, **overrides: Any) -> AlbertConfig:
        return replace(self, **overrides)

    def check_length(self, max_seq_length: int) -> None:
        """UserError if the model has fewer than `max_seq_length` positions."""
        if max_seq_length > self.max_position_embeddings:
            limit = f"max_position_embeddings={self.max_position_embeddings}"
            raise UserError(f"max_seq_length={max_seq_length} exceeds the model's {limit}; use at most that")

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json: every field that is set, and the unknown keys of the original config."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values.pop("extra"), **values}

    @property
    def num_attention_sets(self) -> int:
        """Number of attention parameter sets in the encoder."""
        return self._num_sets(shared=self.share_type in ("all", "attention"))

    @property
    def num_feed_forward_sets(self) -> int:
        """Number of feed-forward parameter sets in the encoder."""
        return self._num_sets(shared=self.share_type in ("all", "ffn"))

    def _num_sets(self, shared: bool) -> int:
        return (self.num_hidden_groups if shared else self.num_hidden_layers) * self.inner_group_num

    def set_index(self, num_sets: int, layer: int, inner: int) -> int:
        """Index of the parameter set of layer `layer`, inner layer `inner` (google-research/albert modeling.py)."""
        groups = num_sets // self.inner_group_num
        group = layer if groups == self.num_hidden_layers else int(layer / self.num_hidden_layers * groups)
        return group * self.inner_group_num + inner


def _inner_config(outer: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The path and content of the model config nested in a training framework's config; None unless exactly one."""
    objects = [(name, value) for name, value in outer.items() if isinstance(value, dict)]
    found = [(name, value) for name, value in objects if {"hidden_size", "num_hidden_layers"} <= value.keys()]
    found += [(f"{name}.{inner[0]}", inner[1]) for name, value in objects if (inner := _inner_config(value))]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Model, built from a preset or config file."""

    config: str = option("base", f"preset ({', '.join(PRESETS)}), config JSON, or checkpoint folder")
    share_type: ShareType | None = option(None, "weights shared between layers (default: the config's, or all)")
    ln_type: LnType | None = option(None, "position of LayerNorm (default: the config's, or postln)")
    layout: Layout | None = option(
        None, "embeddings: zh (albert_zh) or google (Google's and HuggingFace's ALBERT) (default: the config's, or zh)"
    )
    hidden_act: HiddenAct | None = option(
        None, "gelu (erf), gelu_new (tanh), or relu as in Google's Chinese models (default: the config's, or gelu)"
    )
    hidden_dropout_prob: float | None = option(None, "dropout of hidden units (default: the config's, or 0)")
    attention_probs_dropout_prob: float | None = option(
        None, "must be 0: packed attention has no dropout; 0 overrides a published config (default: the config's, or 0)"
    )
    final_layer_norm: bool | None = option(
        None, "with preln, add a LayerNorm after the last layer, unlike the references (default: the config's, or no)"
    )

    def build(self, vocab_size: int | None = None) -> AlbertConfig:
        """The AlbertConfig that these options describe; `vocab_size` is for presets, a config file has its own."""
        given = asdict(self) | ({"vocab_size": vocab_size} if self.config in PRESETS else {})
        make = AlbertConfig.from_preset if self.config in PRESETS else AlbertConfig.from_pretrained
        return make(given.pop("config"), **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class DataConfig(Options):
    """Batches, drawn from a prepared folder."""

    tokens_per_batch: int = option(16384, "packed tokens in one rank's micro-batch", at_least=1)
    max_seq_length: int = option(512, "longest sequence in tokens, including [CLS] and [SEP]", at_least=1)
    max_ngram: int = option(3, "longest masked span in words")
    masked_lm_prob: float = option(0.15, "fraction of a sequence's tokens to predict")
    max_predictions: int | None = option(None, "limit on masked tokens per sequence (default: none)")
    max_sequences: int | None = option(
        None, "limit on sequences per micro-batch; attention's cost grows with it (default: from mean document length)"
    )
    short_seq_prob: float = option(0.1, "probability that a document is cut into shorter sequences")
    sentence_order: bool = option(True, "train on segment pairs with the sentence-order loss")
    loader_threads: int = option(2, "data loader threads, at most 256", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_room(self.tokens_per_batch, self.max_seq_length)

    def settings(self) -> dict[str, Any]:
        """The arguments of PretrainingLoader that determine the batches: all but the threads."""
        return {name: value for name, value in asdict(self).items() if name != "loader_threads"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DeviceOptions):
    """Optimizer, schedule and execution of a step."""

    optimizer: Literal["lamb", "adamw"] = option("lamb", "update rule")
    max_steps: int = option(125_000, "total number of optimizer steps", at_least=1, at_most=2**62)
    learning_rate: float = option(
        0.00176, "peak learning rate; the default, ALBERT's, is for LAMB and 4,096 sequences per step", above=0
    )
    warmup_steps: int = option(
        None, "steps of linear warmup (default: 2.5% of max_steps, as in ALBERT: 3,125 of 125,000)", at_least=0
    )
    decay_power: float = option(1.0, "exponent of the polynomial decay to 0 at max_steps; 1 is linear", above=0)
    weight_decay: float = option(0.01, "decoupled decay of all but biases and LayerNorms", at_least=0, at_most=1e38)
    max_grad_norm: float = option(1.0, "clip gradients to this global norm; 0 disables clipping", at_least=0)
    gradient_accumulation_steps: int = option(
        1, "micro-batches per rank and step, equally weighted (also an epoch's last, partly filled one)", at_least=1
    )
    seed: int = option(42, "seed for weights, data order, masks and dropout", at_least=0, at_most=2**63 - 1)
    capture: Literal["auto", "on", "off"] = option("auto", "capture the step in CUDA graphs; auto: if on CUDA")
    recompute: Literal["none", "ffn", "layer"] = option("none", "activations that backward recomputes to save memory")
    log_tensors: bool = option(False, "log the trust ratio (LAMB) and update-to-weight ratio of each tensor")
    deterministic: bool = option(False, "bitwise reproducible runs, somewhat slower (CPU runs always are reproducible)")

    def __post_init__(self) -> None:
        if self.warmup_steps is None:
            object.__setattr__(self, "warmup_steps", int(self.max_steps) // 40)
        super().__post_init__()
        if not 0 <= self.warmup_steps <= self.max_steps:
            raise UserError(
                f"warmup_steps={self.warmup_steps} must lie between 0 and max_steps={self.max_steps}; "
                f"2.5% of max_steps is {self.max_steps // 40}"
            )


def check_room(tokens_per_batch: int, max_seq_length: int) -> None:
    """UserError if a micro-batch cannot hold one sequence of the maximum length."""
    if tokens_per_batch < max_seq_length:
        raise UserError(f"tokens_per_batch={tokens_per_batch} must be at least max_seq_length={max_seq_length}")
