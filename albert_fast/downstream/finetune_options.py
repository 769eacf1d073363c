"""The flags of albert-fast finetune."""

from dataclasses import dataclass
from typing import Literal

from albert_fast.options import Options, option


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    """What to fine-tune on what, and for how long."""

    model: str = option(help="folder of a pretrained or fine-tuned model with its vocabulary", metavar="DIR")
    train: str = option(help="TSV, CSV, JSONL or JSON file of labelled sentences or pairs to train on", metavar="FILE")
    dev: str = option(help="the same, to choose the best checkpoint on", metavar="FILE")
    output: str = option(help="folder of the best checkpoint, metrics.jsonl and predictions on --dev", metavar="DIR")
    resume: bool = option(False, "go on with a run that was stopped, with the same flags")
    epochs: int | None = option(None, "passes over --train (3)", at_least=1)
    batch_size: int = option(32, "sentences or pairs in a step; packed, so short ones cost little", at_least=1)
    max_seq_length: int = option(
        128, "tokens of the longest sequence, [CLS] and [SEP] included; longer ones are cut", at_least=3
    )
    learning_rate: float | None = option(
        None,
        "peak learning rate (by width and pretraining: 3e-5 for a published base, more for smaller ones and for "
        "those that saw little text)",
        above=0,
    )
    warmup_ratio: float = option(
        0.1, "share of all steps in which the rate rises; then it falls to 0", at_least=0, below=1
    )
    weight_decay: float = option(
        0.01, "decoupled weight decay; biases and LayerNorms are exempt", at_least=0, at_most=1e38
    )
    max_grad_norm: float = option(1.0, "global gradient norm to clip at; 0 turns clipping off")
    hidden_dropout_prob: float | None = option(None, "probability of dropping a hidden unit (the config's)")
    classifier_dropout_prob: float = option(
        0.1, "probability of dropping a unit of the pooled vector", at_least=0, below=1
    )
    pooling: Literal["first", "mean"] | None = option(
        None, "what is classified: the first token's vector, or the mean of all (mean after little pretraining)"
    )
    metric: Literal["accuracy", "f1", "matthews"] = option("accuracy", "score on --dev by which a checkpoint is better")
    patience: int = option(0, "epochs without a better score after which to stop; 0: never", at_least=0)
    save_steps: int = option(
        1000, "steps between states that --resume can go on from; every epoch leaves one too", at_least=1
    )
    logging_steps: int = option(10, "steps between log lines", at_least=1)
    seed: int = option(
        42, "seed of the classifier's weights, the order of examples and dropout", at_least=0, at_most=2**63 - 1
    )
    baseline: bool = option(False, "say what word counts alone reach on --dev (scikit-learn)")
    json: bool = option(False, "print the best scores as one JSON document")
