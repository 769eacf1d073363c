"""Tokenizes lines of text: with the word cache if possible, else with HuggingFace's pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tokenizers

from albert_fast.data.wordpiece import IDEOGRAPH, WordPieceCache

if TYPE_CHECKING:
    from albert_fast.data.tokenizer import Tokenizer

Segmenter = Callable[[str], Iterable[str]]  # splits a line into all its words, in order


class EncodedLines(NamedTuple):
    """Tokens of several lines.

    ids int32 [T] of all lines, concatenated; word_starts bool [T]; lengths int64 [lines] in tokens; counts of words
    that are not in the vocabulary.
    """

    ids: np.ndarray
    word_starts: np.ndarray
    lengths: np.ndarray
    unknown: Counter[str]


def encode_cached(
    tokenizer: Tokenizer, cache: WordPieceCache, lines: Sequence[str], segment: Segmenter | None
) -> EncodedLines | None:
    """Encode word by word; None if the text needs HuggingFace's pipeline."""
    cached = cache.encode_lines(lines)
    if cached is None:
        return None
    ids, lengths, ideographs, unknown = cached
    starts = tokenizer.begins_word[ids]
    if segment is not None:
        begins = _ideographs_begin(lines, segment)
        if len(begins) != len(ideographs):
            return None
        starts[ideographs] = begins | (ids[ideographs] == tokenizer.unk_id)
    return EncodedLines(ids, starts, lengths, unknown)


def encode_wordpiece(tokenizer: Tokenizer, lines: Sequence[str], segment: Segmenter | None) -> EncodedLines:
    """Encode with HuggingFace's pipeline and a WordPiece model: pieces inside a word begin with ##."""
    backend = tokenizer.text_backend
    # encode_batch_fast does not compute offsets.
    encode = backend.encode_batch_fast if segment is None else backend.encode_batch
    encodings = encode(lines, add_special_tokens=False)
    ids, lengths = _joined(encodings)
    starts = tokenizer.begins_word[ids]
    if segment is not None:
        starts &= ~_inside_words(tokenizer, ids, encodings, lines, segment)
    with_unknown = [line for line, e in zip(lines, encodings, strict=True) if tokenizer.unk_id in e.ids]
    found = backend.encode_batch(with_unknown, add_special_tokens=False)
    return EncodedLines(ids, starts, lengths, _unknown_words(tokenizer.unk_id, with_unknown, found))


def encode_pieces(tokenizer: Tokenizer, lines: Sequence[str]) -> EncodedLines:
    """Encode with HuggingFace's pipeline and another model (unigram, BPE): words are those of its pre-tokenizer."""
    encodings = tokenizer.text_backend.encode_batch(lines, add_special_tokens=False)
    ids, lengths = _joined(encodings)
    unknown = _unknown_words(tokenizer.unk_id, lines, encodings)
    # Such a model may have special tokens as pieces, but text that spells one is not a special token.
    ids[np.isin(ids, list(tokenizer.special_ids - {tokenizer.unk_id}))] = tokenizer.unk_id
    words = chain.from_iterable((-1 if word is None else word for word in e.word_ids) for e in encodings)
    word = np.fromiter(words, np.int64, len(ids))
    if tokenizer.taken_apart:
        ids, word, lengths = _taken_apart(tokenizer.taken_apart, ids, word, lengths)
    starts = np.ones(len(ids), np.bool_)
    starts[1:] = (word[1:] != word[:-1]) | tokenizer.carries_marker[ids[1:]]
    starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    return EncodedLines(ids, starts, lengths, unknown)


def _taken_apart(
    parts: dict[int, list[int]], ids: np.ndarray, word: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, word and lengths with the ids of `parts` replaced by those that they stand for, in the same word."""
    counts = np.ones(len(ids), np.int64)
    places = np.flatnonzero(np.isin(ids, list(parts)))
    counts[places] = [len(parts[index]) for index in ids[places].tolist()]
    ends = np.concatenate(([0], np.cumsum(counts)))
    line_ends = np.concatenate(([0], np.cumsum(lengths)))
    out = np.repeat(ids, counts)
    for place in places.tolist():
        out[ends[place] : ends[place + 1]] = parts[int(ids[place])]
    return out, np.repeat(word, counts), np.diff(ends[line_ends])


def _joined(encodings: list[tokenizers.Encoding]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, int(lengths.sum()))
    return ids, lengths


def _unknown_words(unk_id: int, lines: Sequence[str], encodings: list[tokenizers.Encoding]) -> Counter[str]:
    return Counter(
        line[slice(*encoding.offsets[index])]
        for line, encoding in zip(lines, encodings, strict=True)
        if unk_id in encoding.ids
        for index, token in enumerate(encoding.ids)
        if token == unk_id
    )


def _inside_words(
    tokenizer: Tokenizer, ids: np.ndarray, encodings: list[tokenizers.Encoding], lines: Sequence[str],
    segment: Segmenter,
) -> np.ndarray:  # fmt: skip
    """bool [T]: ideographs that do not begin a word of `segment`."""
    inside = [
        begin not in edges
        for line, encoding in zip(lines, encodings, strict=True)
        for edges in [{0, *accumulate(map(len, segment(line)))}]
        for begin, _ in encoding.offsets
    ]
    return np.array(inside, np.bool_) & tokenizer.is_ideograph[ids]


def _ideographs_begin(lines: Sequence[str], segment: Segmenter) -> np.ndarray:
    """For every ideograph of the lines in order, whether it begins a word of `segment`: bool."""
    text = "\n".join(lines)
    lengths = np.fromiter(chain.from_iterable((*map(len, segment(line)), 1) for line in lines), np.int64)
    begins = np.zeros(len(text) + 1, np.bool_)
    begins[np.cumsum(lengths) - lengths] = True
    return begins[[match.start() for match in IDEOGRAPH.finditer(text)]]
