"""What decides a stream of micro-batches: settings as csrc/plan.h checks them, and the capacities left open."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, TypedDict

import numpy as np

from albert_fast._loader import Corpus, LoaderConfig
from albert_fast.options import UserError

_MILLION = 1_000_000
_SETTINGS = [name for name, member in vars(LoaderConfig).items() if isinstance(member, property)]


class LoaderSettings(TypedDict, total=False):
    """What `PretrainingLoader` need not be given; `loader_config` has the defaults, and what each means."""

    max_ngram: int
    masked_lm_prob: float
    max_predictions: int | None
    predictions_per_batch: int | None
    max_sequences: int | None
    short_seq_prob: float
    sentence_order: bool


def loader_config(
    corpus: Corpus | None = None,
    *,
    tokens_per_batch: int,
    max_seq_length: int,
    seed: int = 0,
    max_ngram: int = 3,
    masked_lm_prob: float = 0.15,
    max_predictions: int | None = None,
    predictions_per_batch: int | None = None,
    max_sequences: int | None = None,
    short_seq_prob: float = 0.1,
    sentence_order: bool = True,
) -> LoaderConfig:
    """The settings of `PretrainingLoader`, checked, with its capacities where they are None.

    Args:
        corpus: whose mean document decides max_sequences; None: documents much longer than max_seq_length.
        tokens_per_batch: T, at least max_seq_length.
        max_seq_length: S, the most tokens of a sequence, specials included.
        seed: from 0 to 2^64 - 1.
        max_ngram: longest span, in words.
        masked_lm_prob: share of an example's tokens to mask, rounded to a millionth.
        max_predictions: most masked tokens of an example; None: no cap.
        predictions_per_batch: P; None: as `capacities` has it.
        max_sequences: M, most examples of a batch; None: as `capacities` has it.
        short_seq_prob: probability that a document is cut at a random shorter length, rounded to a millionth.
        sentence_order: False makes one segment and no label.

    Raises:
        UserError: a setting out of its range (LoaderConfig::check of csrc/plan.h has them all).
    """
    config = LoaderConfig()
    config.seed = as_integer("seed", seed, 64)
    config.max_seq_length = as_integer("max_seq_length", max_seq_length, 32)
    config.tokens_per_batch = as_integer("tokens_per_batch", tokens_per_batch, 32)
    config.max_ngram = as_integer("max_ngram", max_ngram, 32)
    config.masked_lm_millionths = _millionths("masked_lm_prob", masked_lm_prob)
    config.short_seq_millionths = _millionths("short_seq_prob", short_seq_prob)
    if not isinstance(sentence_order, (bool, np.bool_)):
        raise UserError(f"sentence_order={sentence_order!r} must be True or False")
    config.sentence_order = bool(sentence_order)
    most = max_seq_length if max_predictions is None else max_predictions
    config.max_predictions = as_integer("max_predictions", most, 32)
    config.max_sequences, config.predictions_per_batch = 1, config.tokens_per_batch  # in range whenever the rest is
    with as_user_error():
        config.check()
    sequences, slots = capacities(config, corpus)
    if max_sequences is not None:
        sequences = as_integer("max_sequences", max_sequences, 32)
    if predictions_per_batch is not None:
        slots = as_integer("predictions_per_batch", predictions_per_batch, 32)
    config.max_sequences, config.predictions_per_batch = sequences, slots
    with as_user_error():
        config.check()
    return config


def capacities(config: LoaderConfig, corpus: Corpus | None = None) -> tuple[int, int]:
    """(max_sequences, predictions_per_batch) for batches that tokens close, not examples or predictions.

    max_sequences: T over a lower bound of the mean example, m, and two standard deviations of that number of examples
    where lengths vary as much as they can, n (1 + 2 sqrt((S - m) / T)). Attention pays for each slot, used or not.
    predictions_per_batch: ceil(T max(masked_lm_prob, b(S) / S)) + ceil(sqrt(T / S)), rounded up to 16, with b(S) the
    budget of a full example.
    """
    tokens, length = config.tokens_per_batch, config.max_seq_length
    share = max(Fraction(config.masked_lm_millionths, _MILLION), Fraction(config.budget(length), length))
    slots = math.ceil(tokens * share) + math.isqrt(-(-tokens // length) - 1) + 1
    mean = _mean_example(config, corpus)
    sequences = math.ceil(tokens / mean * (1 + 2 * math.sqrt((length - mean) / tokens)))
    return min(sequences, tokens), min(-(-slots // 16) * 16, tokens)


def earlier_max_sequences(config: LoaderConfig, corpus: Corpus) -> int:
    """max_sequences of a stream whose cursors do not name it yet: T / 32, or a quarter more than T / m."""
    tokens = config.tokens_per_batch
    return min(max(tokens // 32, math.ceil(tokens * Fraction(5, 4) / _mean_example(config, corpus))), tokens)


def _mean_example(config: LoaderConfig, corpus: Corpus | None) -> Fraction:
    """A lower bound of the mean tokens of an example, specials included."""
    specials = 2 + config.sentence_order
    most = config.max_seq_length - specials
    short = Fraction(config.short_seq_millionths, _MILLION)
    mean_inverse = (1 - short) / most + short * Fraction(sum(1 / n for n in range(2, most + 1))) / (most - 1)
    documents = Fraction(corpus.num_documents, corpus.num_tokens) if corpus else 0  # a document: its share, rounded up
    return 1 / (documents + mean_inverse) + specials


def stream_fingerprint(config: LoaderConfig, corpus: Corpus) -> str:
    """Identifies the stream: 16 hexadecimal digits over the shards' content and every setting that decides a byte."""
    settings = {name: getattr(config, name) for name in _SETTINGS}
    text = json.dumps([corpus.fingerprint, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def as_integer(name: str, value: Any, bits: int) -> int:
    """`value` as an unsigned integer of so many bits, which the core can be given; UserError where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UserError(f"{name}={value!r} is not a whole number; give one")
    if not 0 <= value < 2**bits:
        raise UserError(f"{name}={value} must be from 0 to {2**bits - 1}")
    return int(value)


def _millionths(name: str, value: float) -> int:
    try:
        return as_integer(name, round(Fraction(str(value)) * _MILLION), 32)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{name}={value!r} must be a number from 0 to 1") from None


@contextmanager
def as_user_error() -> Iterator[None]:
    """Errors of the C++ core, which carry value, rule and remedy, as UserError."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error)) from None
