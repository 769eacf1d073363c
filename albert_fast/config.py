"""What a run is made of: the model's, the data's and the training's settings, each a frozen dataclass checked once."""

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

# Keys that the TensorFlow projects and HuggingFace write and that do not change the model: kept, without a word.
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
    """ALBERT's hyperparameters under the names of the published configs; checked when made.

    `layout` says how embeddings are built. zh (albert_zh, albert_pytorch): words of width E projected to H, positions
    and token types of width H, then LayerNorm. google: all three of width E, LayerNorm, then the projection.
    `real_vocab_size`, where the vocabulary was padded to vocab_size (a multiple of 8 or 64, say): how many ids have a
    token; the others are never predicted.
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
        if self.share_type is None:  # JSON's null and the seed's Python None
            object.__setattr__(self, "share_type", "None")
        if self.hidden_act == "gelu_pytorch_tanh":  # HuggingFace's other name of the same function
            object.__setattr__(self, "hidden_act", "gelu_new")
        check_options(self)
        if self.hidden_size % self.num_attention_heads:
            heads = [n for n in range(1, self.hidden_size + 1) if self.hidden_size % n == 0]
            near = min(heads, key=lambda n: abs(n - self.num_attention_heads))
            raise UserError(
                f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}; "
                f"use {near}"
            )
        if (self.real_vocab_size or 0) > self.vocab_size:
            raise UserError(
                f"real_vocab_size={self.real_vocab_size} is more than vocab_size={self.vocab_size}, which holds it and "
                "padding"
            )
        if self.num_hidden_groups > self.num_hidden_layers:
            raise UserError(
                f"num_hidden_groups={self.num_hidden_groups} is more than num_hidden_layers={self.num_hidden_layers}; "
                f"use at most {self.num_hidden_layers}"
            )

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> AlbertConfig:
        """The preset `name` (see PRESETS) with `overrides` laid over it."""
        check_choice("config", name, tuple(PRESETS))
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_pretrained(cls, path: str | Path, **overrides: Any) -> AlbertConfig:
        """Read a config JSON of the seed, albert_zh, Google, HuggingFace or ours; `path` may be its folder.

        Unknown keys are kept in `extra` with a note; one that is a known key but for a slip is refused.
        """
        file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
        try:
            raw = json.loads(file.read_text(encoding="utf-8-sig"))
        except OSError as error:
            presets = ", ".join(PRESETS)
            reason = error.strerror or error
            raise UserError(f"config {file}: {reason}; give a JSON file, its folder, or one of {presets}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"config {file} is not JSON ({error}); it has no comments: remove what follows #") from None
        if not isinstance(raw, dict) or not isinstance(raw.get("extra", {}), dict):
            raise UserError(f"config {file}: it, and `extra` in it, must be objects of keys and values")
        if "hidden_size" not in raw and (inner := _inner_config(raw)):
            note(f"config {file}: took the model's own under {inner[0]}")
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
            raise UserError(f"config {file} lacks {', '.join(missing)}")
        try:
            return cls(**{**raw, "extra": extra, **overrides})
        except UserError as error:
            raise UserError(f"config {file}: {error}") from None

    def replace(self, **overrides: Any) -> AlbertConfig:
        return replace(self, **overrides)

    def check_length(self, max_seq_length: int) -> None:
        """UserError where sequences of max_seq_length tokens have more positions than this model."""
        if max_seq_length > self.max_position_embeddings:
            raise UserError(
                f"max_seq_length={max_seq_length} is over the model's max_position_embeddings="
                f"{self.max_position_embeddings}; use at most that"
            )

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: every field, with the unknown keys of the config it came from laid beside them."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values.pop("extra"), **values}

    @property
    def num_attention_sets(self) -> int:
        """How many distinct sets of attention weights the encoder holds."""
        return self._num_sets(shared=self.share_type in ("all", "attention"))

    @property
    def num_feed_forward_sets(self) -> int:
        """How many distinct sets of feed-forward weights the encoder holds."""
        return self._num_sets(shared=self.share_type in ("all", "ffn"))

    def _num_sets(self, shared: bool) -> int:
        return (self.num_hidden_groups if shared else self.num_hidden_layers) * self.inner_group_num

    def set_index(self, num_sets: int, layer: int, inner: int) -> int:
        """Which of `num_sets` sets layer `layer`, inner layer `inner` uses (google-research/albert modeling.py)."""
        groups = num_sets // self.inner_group_num
        group = layer if groups == self.num_hidden_layers else int(layer / self.num_hidden_layers * groups)
        return group * self.inner_group_num + inner


def _inner_config(held: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The one model's config that a training framework's holds, and its place; None where there is none, or several."""
    objects = [(name, value) for name, value in held.items() if isinstance(value, dict)]
    found = [(name, value) for name, value in objects if {"hidden_size", "num_hidden_layers"} <= value.keys()]
    found += [(f"{name}.{inner[0]}", inner[1]) for name, value in objects if (inner := _inner_config(value))]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Which model to build: a preset or a config file, and what to change in it."""

    config: str = option("base", f"preset ({', '.join(PRESETS)}), config JSON, or folder of a checkpoint")
    share_type: ShareType | None = option(None, "weights that layers share (the config's, or all)")
    ln_type: LnType | None = option(None, "LayerNorm's place (the config's, or postln)")
    layout: Layout | None = option(
        None, "embeddings as in albert_zh (zh) or in Google's and HuggingFace's ALBERT (google) (the config's, or zh)"
    )
    hidden_act: HiddenAct | None = option(
        None, "gelu (erf), gelu_new (tanh) or relu, of Google's Chinese models (the config's, or gelu)"
    )
    hidden_dropout_prob: float | None = option(None, "probability of dropping a hidden unit (the config's, or 0)")
    attention_probs_dropout_prob: float | None = option(
        None, "0 trains a published config that has more, which packed attention cannot (the config's, or 0)"
    )
    final_layer_norm: bool | None = option(
        None, "with preln, a LayerNorm after the last layer, which the references have not (config's, or none)"
    )

    def build(self, **overrides: Any) -> AlbertConfig:
        """The AlbertConfig these options name, with `overrides` laid over it."""
        given = {name: value for name, value in asdict(self).items() if value is not None and name != "config"}
        make = AlbertConfig.from_preset if self.config in PRESETS else AlbertConfig.from_pretrained
        return make(self.config, **given, **overrides)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Options):
    """How batches are drawn from a prepared folder."""

    tokens_per_batch: int = option(16384, "tokens of one micro-batch of one rank, packed", at_least=1)
    max_seq_length: int = option(512, "tokens of the longest sequence, [CLS] and [SEP] included", at_least=1)
    max_ngram: int = option(3, "words of the longest masked span")
    masked_lm_prob: float = option(0.15, "share of a sequence's tokens to predict")
    max_predictions: int | None = option(None, "most predictions in one sequence (the share above alone)")
    max_sequences: int | None = option(
        None, "most sequences in one micro-batch, room for which attention pays (from the documents' mean length)"
    )
    short_seq_prob: float = option(0.1, "probability that a document is cut into shorter sequences")
    sentence_order: bool = option(True, "draw pairs of segments for the sentence-order loss")
    loader_threads: int = option(2, "threads of the data loader, at most 256", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_room(self.tokens_per_batch, self.max_seq_length)

    def settings(self) -> dict[str, Any]:
        """What decides the batches, by the names of PretrainingLoader's arguments: all but the threads."""
        return {name: value for name, value in asdict(self).items() if name != "loader_threads"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DeviceOptions):
    """How the weights are trained; what a step does, and on what."""

    optimizer: Literal["lamb", "adamw"] = option("lamb", "update rule")
    max_steps: int = option(125_000, "optimizer steps in all", at_least=1, at_most=2**62)
    learning_rate: float = option(
        0.00176,
        "peak learning rate; the default is ALBERT's, of LAMB and 4,096 sequences a step: fewer want less",
        above=0,
    )
    warmup_steps: int = option(
        None, "steps of linear warm-up to the peak (2.5% of max_steps, as ALBERT's 3,125 of 125,000)", at_least=0
    )
    decay_power: float = option(1.0, "power of the polynomial decay to 0 at max_steps; 1 is linear", above=0)
    weight_decay: float = option(
        0.01, "decoupled weight decay; biases and LayerNorms are exempt", at_least=0, at_most=1e38
    )
    max_grad_norm: float = option(1.0, "global gradient norm to clip at; 0 turns clipping off", at_least=0)
    gradient_accumulation_steps: int = option(
        1,
        "micro-batches of one rank in a step; each weighs the same, also an epoch's last, which may be part full",
        at_least=1,
    )
    seed: int = option(42, "seed of weights, data order, masks and dropout", at_least=0, at_most=2**63 - 1)
    capture: Literal["auto", "on", "off"] = option("auto", "capture the step in CUDA graphs; auto: on CUDA")
    recompute: Literal["none", "ffn", "layer"] = option("none", "what backward recomputes to save memory")
    log_tensors: bool = option(False, "log each tensor's trust ratio (LAMB) and update-to-weight ratio")
    deterministic: bool = option(False, "same bits on every run, at some cost in speed (CPU runs always are)")

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
    """UserError where a micro-batch has no room for one sequence."""
    if tokens_per_batch < max_seq_length:
        raise UserError(f"tokens_per_batch={tokens_per_batch} must be max_seq_length={max_seq_length} or more")
