"""Synthetic text for benchmarks, prepared with the real `prepare`."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from albert_fast.data.manifest import Manifest
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.tokenizer import SPECIAL_TOKENS


def synthetic_folder(folder: Path, tokens: int, median: float, sigma: float, vocab_size: int) -> Path:
    """A prepared folder of about `tokens` tokens, one per word; document lengths are log-normal (median in tokens).

    Words follow Zipf's law; sentences have 8 to 40 words.
    """
    random = np.random.default_rng(0)
    words = [f"w{i}" for i in range(vocab_size - len(SPECIAL_TOKENS))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *words]) + "\n")
    ranks = np.arange(1, len(words) + 1)
    chance = np.cumsum(1 / ranks)
    documents, total = [], 0
    while total < tokens:
        length = max(int(random.lognormal(np.log(median), sigma)), 4)
        drawn = np.searchsorted(chance, random.random(length) * chance[-1])
        cuts = np.cumsum(random.integers(8, 41, size=length // 8 + 1))
        sentences = [" ".join(words[i] for i in part) for part in np.split(drawn, cuts[cuts < length])]
        documents.append("\n".join(sentences))
        total += length
    text = folder / "text.txt"
    text.write_text("\n\n".join(documents) + "\n")
    prepare_quietly(text, folder / "data", vocab=str(folder / "vocab.txt"))
    return folder / "data"


def prepare_quietly(text: Path, output: Path, workers: int = 1, **options: Any) -> Manifest:
    """`albert-fast prepare` of one text, without its messages."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        manifest = prepare(PrepareOptions(input=(str(text),), output=str(output), workers=workers, **options))
    assert manifest is not None
    return manifest
