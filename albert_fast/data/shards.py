"""Shards of tokens: the writer, and the plain reader that tests hold the C++ one against.

A shard (version 1, little-endian, sections at multiples of 64 bytes, zero-padded): header; pages, each its tokens and
then one bit a token that says whether it begins a word; the bitmap of ordinary ids; sentence lengths; page table.
csrc/shard.h reads the same. A page holds whole documents, or a piece of a longer one, which then is a document.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from albert_fast._loader import crc32c
from albert_fast.data.manifest import open_folder
from albert_fast.data.tokenizer import Tokenizer

VERSION = 1
MAX_PAGE_TOKENS = 65_536
MAX_SENTENCE_TOKENS = 32_767
FIRST_OF_DOCUMENT = 0x8000
_ALIGNMENT = 64
_FIELDS = {  # name: (type, offset)
    "magic": ("S8", 0),
    "version": ("<u4", 8),
    "token_bytes": ("<u4", 12),
    "vocab_size": ("<u4", 16),
    "flags": ("<u4", 20),  # bit 0: word starts come from a segmenter
    "file_bytes": ("<u8", 24),
    "num_tokens": ("<u8", 32),
    "num_sentences": ("<u8", 40),
    "num_documents": ("<u8", 48),
    "num_pages": ("<u8", 56),
    "lengths_offset": ("<u8", 64),
    "table_offset": ("<u8", 72),
    "cls_id": ("<u4", 80),
    "sep_id": ("<u4", 84),
    "mask_id": ("<u4", 88),
    "unk_id": ("<u4", 92),
    "pad_id": ("<u4", 96),
    "table_crc": ("<u4", 100),
    "fingerprint": ("V32", 104),
    "num_ordinary": ("<u8", 136),
    "ordinary_offset": ("<u8", 144),
    "header_crc": ("<u4", 252),
}
_KINDS, _OFFSETS = zip(*_FIELDS.values(), strict=True)
HEADER = np.dtype({"names": list(_FIELDS), "formats": _KINDS, "offsets": _OFFSETS, "itemsize": 256})
PAGE = np.dtype([("offset", "<u8"), ("first_sentence", "<u8"), ("num_tokens", "<u4"), ("num_sentences", "<u4"),
                 ("page_crc", "<u4"), ("lengths_crc", "<u4")])  # fmt: skip


class ShardWriter:
    """Writes one shard, page by page, into an open file; keeps the lengths and the table until `finish`."""

    def __init__(self, file: BinaryIO, tokenizer: Tokenizer, segmented: bool):
        self._file, self._tokenizer, self._segmented = file, tokenizer, segmented
        self._token_type = np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
        self._offset = HEADER.itemsize
        self._lengths: list[np.ndarray] = []
        self._pages: list[tuple[int, int, int, int, int, int]] = []
        self.num_tokens = self.num_sentences = self.num_documents = 0
        file.write(bytes(HEADER.itemsize))  # no magic yet: a half-written shard is none

    def write_page(self, ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray, first: np.ndarray) -> None:
        """Append a page: ids and word starts [T], sentence lengths and first-of-document flags [sentences]."""
        packed = (lengths | np.where(first, FIRST_OF_DOCUMENT, 0)).astype("<u2")
        packed[0] |= FIRST_OF_DOCUMENT
        page = _pad(ids.astype(self._token_type).tobytes()) + _pad(np.packbits(starts, bitorder="little").tobytes())
        counts = (len(ids), len(lengths), crc32c(page), crc32c(packed))
        self._pages.append((self._offset, self.num_sentences, *counts))
        self._lengths.append(packed)
        self.num_tokens += len(ids)
        self.num_sentences += len(lengths)
        self.num_documents += int((packed >= FIRST_OF_DOCUMENT).sum())
        self._file.write(page)
        self._offset += len(page)

    def finish(self) -> None:
        """Write the other sections and, last, the header."""
        tokenizer = self._tokenizer
        ordinary = np.packbits(tokenizer.is_ordinary, bitorder="little").tobytes()
        table = np.array(self._pages, PAGE)
        sections = (
            _pad(ordinary) + _pad(np.uint32(crc32c(ordinary)).astype("<u4").tobytes()),
            _pad(np.concatenate(self._lengths).tobytes()),
            _pad(table.tobytes()),
        )
        ends = np.cumsum([self._offset, *map(len, sections)])
        header = np.zeros((), HEADER)
        header["magic"], header["version"], header["token_bytes"] = b"ALBERTFS", VERSION, self._token_type.itemsize
        header["vocab_size"], header["flags"] = tokenizer.vocab_size, int(self._segmented)
        header["ordinary_offset"], header["lengths_offset"], header["table_offset"], header["file_bytes"] = ends
        header["num_tokens"], header["num_sentences"] = self.num_tokens, self.num_sentences
        header["num_documents"], header["num_pages"] = self.num_documents, len(table)
        for name in ("cls_id", "sep_id", "mask_id", "unk_id", "pad_id"):
            header[name] = getattr(tokenizer, name)
        header["table_crc"], header["fingerprint"] = crc32c(table), np.void(tokenizer.fingerprint)
        header["num_ordinary"] = tokenizer.is_ordinary.sum()
        header["header_crc"] = crc32c(header.tobytes()[:-4])
        for section in sections:
            self._file.write(section)
        self._file.seek(0)
        self._file.write(header.tobytes())


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


@dataclass(frozen=True)
class Sentence:
    """Token ids int32 [T], word starts bool [T], and whether it is its document's first."""

    ids: np.ndarray
    word_starts: np.ndarray
    first_of_document: bool


def read_sentences(shard: str | Path) -> Iterator[Sentence]:
    """The plain reference reader: every sentence of a shard in order. It trusts the file; `verify` does not."""
    with open(shard, "rb") as file:
        header = np.frombuffer(file.read(HEADER.itemsize), HEADER)[0]
        file.seek(int(header["table_offset"]))
        table = np.frombuffer(file.read(int(header["num_pages"]) * PAGE.itemsize), PAGE)
        for page in table:
            file.seek(int(header["lengths_offset"] + 2 * page["first_sentence"]))
            packed = np.frombuffer(file.read(2 * int(page["num_sentences"])), "<u2")
            file.seek(int(page["offset"]))
            ids, starts = _split_page(file.read(page_bytes(page, header)), page, header)
            ends = np.cumsum(packed & ~np.uint16(FIRST_OF_DOCUMENT), dtype=np.int64)
            for begin, end, first in zip([0, *ends[:-1]], ends, packed >= FIRST_OF_DOCUMENT, strict=True):
                yield Sentence(ids[begin:end], starts[begin:end], bool(first))


def read_documents(directory: str | os.PathLike[str]) -> Iterator[list[Sentence]]:
    """Every document of a prepared folder in order, as its sentences."""
    document: list[Sentence] = []
    for shard in open_folder(directory).shards:
        for sentence in read_sentences(shard):
            if sentence.first_of_document and document:
                yield document
                document = []
            document.append(sentence)
    if document:
        yield document


def page_bytes(page: Any, header: Any) -> int:
    tokens = int(page["num_tokens"])
    bits = (tokens + 7) // 8
    return sum(size + -size % _ALIGNMENT for size in (tokens * int(header["token_bytes"]), bits))


def _split_page(data: bytes, page: Any, header: Any) -> tuple[np.ndarray, np.ndarray]:
    """A page's ids int32 [T] and word starts bool [T]."""
    tokens, width = int(page["num_tokens"]), int(header["token_bytes"])
    size = tokens * width
    ids = np.frombuffer(data, f"<u{width}", tokens).astype(np.int32)
    bits = np.frombuffer(data, np.uint8, (tokens + 7) // 8, size + -size % _ALIGNMENT)
    return ids, np.unpackbits(bits, count=tokens, bitorder="little").astype(np.bool_)
