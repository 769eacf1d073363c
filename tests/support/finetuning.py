"""Sentences whose class is determined by one word, and fine-tuning of a small model on them."""

import random
from pathlib import Path
from typing import Any

from albert_fast.downstream.columns import ColumnOptions
from albert_fast.downstream.finetune import finetune
from albert_fast.downstream.finetune_options import FinetuneOptions
from albert_fast.options import DeviceOptions

WORDS = [f"w{i}" for i in range(40)]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "yes", "no", "maybe"]
SIZES = {"hidden_size": 32, "embedding_size": 16, "intermediate_size": 64, "num_attention_heads": 2}
LAYERS = {"num_hidden_layers": 2, "vocab_size": len(TOKENS), "max_position_embeddings": 32}


def sentences(file: Path, count: int, seed: int, kinds: tuple[str, ...] = ("yes", "no")) -> Path:
    """Write sentences of random words with one word that determines the class."""
    generator = random.Random(seed)
    with file.open("w") as stream:
        for _ in range(count):
            words = [generator.choice(WORDS) for _ in range(generator.randrange(3, 9))]
            kind = generator.choice(kinds)
            words.insert(generator.randrange(len(words)), kind)
            stream.write(f"{' '.join(words)}\tis {kind}\n")
    return file


def options(pretrained: Path, **changes: Any) -> FinetuneOptions:
    folder = pretrained.parent
    train, dev = folder / "train.tsv", folder / "dev.tsv"
    if not train.exists():
        sentences(train, 300, 1)
        sentences(dev, 100, 2)
    flags = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "max_seq_length": 16, "save_steps": 7}
    files = {"model": str(pretrained), "train": str(train), "dev": str(dev), "output": str(folder / "run")}
    return FinetuneOptions(**(files | flags | changes))


def run(given: FinetuneOptions, columns: ColumnOptions | None = None) -> Path:
    finetune(given, columns or ColumnOptions(), DeviceOptions(device="cpu"))
    return Path(given.output)
