"""Assembles encoded chunks into pages: joins lines across chunks, separates documents, splits long ones."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from albert_fast.data.shards import MAX_PAGE_TOKENS, MAX_SENTENCE_TOKENS


@dataclass(frozen=True)
class EncodedChunk:
    """The tokenized lines of a chunk.

    ids int32 [T], word starts bool [T], lengths int64 [lines] in tokens, and is_blank bool [lines] (lines that end a
    document; other lines without tokens are ignored). `unknown` counts words that are not in the vocabulary.
    """

    ids: np.ndarray
    word_starts: np.ndarray
    lengths: np.ndarray
    is_blank: np.ndarray
    unknown: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Page:
    """ids [T], word_starts [T]; lengths and first_of_document [sentences]."""

    ids: np.ndarray
    word_starts: np.ndarray
    lengths: np.ndarray
    first_of_document: np.ndarray


class PageBuilder:
    """Turns a sequence of encoded chunks into pages, filled greedily with whole documents as far as possible.

    Four arrays hold everything not yet in a page; the last sentence may continue in the next chunk.
    """

    def __init__(self) -> None:
        self._ids = np.empty(0, np.int32)
        self._starts = np.empty(0, np.bool_)
        self._lengths = np.empty(0, np.int64)
        self._first = np.empty(0, np.bool_)
        self._line_is_open = False  # the line of the last sentence continues in the next chunk
        self.document_is_open = False

    @property
    def num_tokens(self) -> int:
        return len(self._ids)

    @property
    def num_sentences(self) -> int:
        return len(self._lengths)

    def end_document(self) -> None:
        self.document_is_open = False

    def add(self, chunk: EncodedChunk, inside_line: bool, ends_line: bool) -> Iterator[Page]:
        """Append a chunk; inside_line: its first line continues the last one; its last may continue in the next."""
        lengths, ends_document = chunk.lengths.copy(), chunk.is_blank.copy()
        # A blank part of a line does not make the whole line blank.
        ends_document[:1] &= not inside_line
        ends_document[-1:] &= ends_line
        if self._line_is_open:  # remove its sentence, as if all of it were in this chunk
            lengths[0] += self._lengths[-1]
            self.document_is_open = not self._first[-1]
            self._lengths, self._first = self._lengths[:-1], self._first[:-1]
        kept = np.flatnonzero(lengths)
        # The last sentence before this chunk, then those of the chunk, with the index of their document.
        document = np.append(0 if self.document_is_open else -1, np.cumsum(ends_document)[kept])
        self._ids = np.append(self._ids, chunk.ids)
        self._starts = np.append(self._starts, chunk.word_starts)
        self._lengths = np.append(self._lengths, lengths[kept])
        self._first = np.append(self._first, np.diff(document) != 0)
        self.document_is_open = bool(document[-1] == np.count_nonzero(ends_document))
        self._line_is_open = not ends_line and lengths[-1] > 0
        self._cut_long_sentences()
        yield from self._full_pages()

    def flush(self) -> Iterator[Page]:
        """Yield the last page, if any, and reset."""
        if len(self._lengths):
            yield Page(self._ids, self._starts, self._lengths, self._first)
        self.__init__()  # type: ignore[misc]

    def _cut_long_sentences(self) -> None:
        if len(self._lengths) == 0 or self._lengths.max() <= MAX_SENTENCE_TOKENS:
            return
        pieces = -(-self._lengths // MAX_SENTENCE_TOKENS)
        ends = np.cumsum(pieces)
        lengths = np.full(ends[-1], MAX_SENTENCE_TOKENS, np.int64)
        lengths[ends - 1] = self._lengths - (pieces - 1) * MAX_SENTENCE_TOKENS
        first = np.zeros(ends[-1], np.bool_)
        first[ends - pieces] = self._first
        self._lengths, self._first = lengths, first

    def _full_pages(self) -> Iterator[Page]:
        ends = np.cumsum(self._lengths)
        documents = np.flatnonzero(self._first)
        sentence = token = 0
        while len(ends) and ends[-1] - token > MAX_PAGE_TOKENS:
            fitting = int(np.searchsorted(ends, token + MAX_PAGE_TOKENS, side="right"))
            begun = documents[documents <= fitting]
            stop = int(begun[-1]) if len(begun) and begun[-1] > sentence else fitting
            last = int(ends[stop - 1])
            yield self._slice(sentence, stop, token, last)
            sentence, token = stop, last
        rest = self._slice(sentence, len(ends), token, len(self._ids))
        self._ids, self._starts = rest.ids, rest.word_starts
        self._lengths, self._first = rest.lengths, rest.first_of_document

    def _slice(self, sentence: int, stop: int, token: int, last: int) -> Page:
        sentences = slice(sentence, stop)
        return Page(self._ids[token:last], self._starts[token:last], self._lengths[sentences], self._first[sentences])
