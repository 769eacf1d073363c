"""The flags of `albert-fast finetune`."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from albert_fast.config import TrainConfig
from albert_fast.options import Options, option


def _as_in_pretraining(name: str) -> Any:
    """A field with the default, help line and bounds that TrainConfig gives it."""
    (field,) = (field for field in fields(TrainConfig) if field.name == name)
    return option(field.default, **field.metadata)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    """Model, data, output folder and training settings."""

    model: str = option(help="folder of a pretrained or fine-tuned model and its vocabulary", metavar="DIR")
    train: str = option(help="TSV, CSV, JSONL or JSON file of labelled sentences or pairs to train on", metavar="FILE")
    dev: str = option(help="file of the same kind, to select the best checkpoint on", metavar="FILE")
    output: str = option(help="folder to write: best checkpoint, metrics.jsonl, predictions on --dev", metavar="DIR")
    resume: bool = option(False, "resume an interrupted run; give the same flags")
    epochs: int | None = option(None, "passes over --train (3)", at_least=1)
    batch_size: int = option(32, "sentences or pairs per step; packed, so short ones cost little", at_least=1)
    max_seq_length: int = option(128, "truncate sequences to this many tokens, [CLS] and [SEP] included", at_least=3)
    learning_rate: float | None = option(
        None, "peak learning rate (3e-5 for a published base model, more if smaller or little pretrained)", above=0
    )
    warmup_ratio: float = option(0.1, "fraction of steps for warm-up; the rate then decays to 0", at_least=0, below=1)
    weight_decay: float = _as_in_pretraining("weight_decay")
    max_grad_norm: float = _as_in_pretraining("max_grad_norm")
    hidden_dropout_prob: float | None = option(None, "dropout probability of hidden states (the config's)")
    classifier_dropout_prob: float = option(0.1, "dropout probability of the pooled vector", at_least=0, below=1)
    pooling: Literal["first", "mean"] | None = option(
        None, "classify the first token's vector, or the mean over all tokens (mean if little pretrained)"
    )
    metric: Literal["accuracy", "f1", "matthews"] = option("accuracy", "score that selects the best checkpoint")
    patience: int = option(0, "stop after this many epochs without a better score; 0: never", at_least=0)
    save_steps: int = option(1000, "steps between states to resume from, besides one per epoch", at_least=1)
    logging_steps: int = option(10, "steps between log lines", at_least=1)
    seed: int = option(42, "seed of classifier weights, example order and dropout", at_least=0, at_most=2**63 - 1)
    baseline: bool = option(False, "also report a bag-of-words baseline on --dev (needs scikit-learn)")
    json: bool = option(False, "print the best scores as a JSON document")
