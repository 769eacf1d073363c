"""A second shard writer, from lists of token ids, so that tests of the loader do not depend on `prepare`."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from albert_fast._loader import crc32c

PAD, UNK, CLS, SEP, MASK = range(5)
NUM_NOT_ORDINARY = 7  # 5 and 6 are [unused1] and [unused2]


@dataclass
class Document:
    """Sentences as lists of token ids, and for each token whether it begins a word (default: all do)."""

    sentences: list[np.ndarray]
    word_starts: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sentences = [np.asarray(s, dtype=np.int64) for s in self.sentences]
        if not self.word_starts:
            self.word_starts = [np.ones(len(s), dtype=bool) for s in self.sentences]


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def pages_of(documents: Sequence[Document], page_tokens: int) -> list[list[tuple[np.ndarray, np.ndarray, bool]]]:
    """(ids, word starts, first of a document) of each sentence by page; long documents are split between sentences."""
    pages: list[list[tuple[np.ndarray, np.ndarray, bool]]] = []
    room = 0
    for document in documents:
        size = sum(map(len, document.sentences))
        if size > room or not pages:
            pages.append([])
            room = page_tokens
        for i, (ids, starts) in enumerate(zip(document.sentences, document.word_starts, strict=True)):
            if len(ids) > room:
                pages.append([])
                room = page_tokens
            pages[-1].append((ids, starts, i == 0))
            room -= len(ids)
    return [page for page in pages if page]


def write_shard(
    path: Path,
    documents: Sequence[Document],
    vocab_size: int,
    page_tokens: int = 65_536,
    token_bytes: int | None = None,
    unused: Sequence[int] = (),
) -> None:
    """Args: unused: additional ids that are never used as random replacements."""
    width = token_bytes or (2 if vocab_size <= 65_536 else 4)
    body, lengths, table = bytearray(), [], bytearray()
    num_tokens = num_documents = 0
    for page in pages_of(documents, page_tokens):
        ids = np.concatenate([sentence[0] for sentence in page]).astype(f"<u{width}")
        starts = np.concatenate([sentence[1] for sentence in page])
        own = [len(s[0]) | (0x8000 if s[2] else 0) for s in page]
        data = pad(ids.tobytes()) + pad(np.packbits(starts, bitorder="little").tobytes())
        own_bytes = np.array(own, "<u2").tobytes()
        entry = (256 + len(body), len(lengths), len(ids), len(page), crc32c(data), crc32c(own_bytes))
        table += struct.pack("<QQIIII", *entry)
        body += data
        lengths += own
        num_tokens += len(ids)
        num_documents += sum(s[2] for s in page)
    is_ordinary = (np.arange(vocab_size) >= NUM_NOT_ORDINARY) & ~np.isin(np.arange(vocab_size), unused)
    ordinary = np.packbits(is_ordinary, bitorder="little").tobytes()
    ordinary_section = pad(ordinary) + pad(struct.pack("<I", crc32c(ordinary)))
    lengths_section = pad(np.array(lengths, "<u2").tobytes())
    ordinary_offset = 256 + len(body)
    lengths_offset = ordinary_offset + len(ordinary_section)
    table_offset = lengths_offset + len(lengths_section)
    file_bytes = table_offset + len(pad(bytes(table)))
    header = b"ALBERTFS" + struct.pack("<IIII", 1, width, vocab_size, 0)
    header += struct.pack("<QQQQQQQ", file_bytes, num_tokens, len(lengths), num_documents, len(table) // 32,
                          lengths_offset, table_offset)  # fmt: skip
    header += struct.pack("<IIIIII", CLS, SEP, MASK, UNK, PAD, crc32c(bytes(table)))
    header += b"fingerprint of the tests' tokens"
    header += struct.pack("<QQ", int(is_ordinary.sum()), ordinary_offset)
    header = header.ljust(252, b"\0")
    header += struct.pack("<I", crc32c(header))
    path.write_bytes(header + body + ordinary_section + lengths_section + pad(bytes(table)))


def random_documents(
    seed: int,
    num_documents: int,
    sentences: tuple[int, int] = (1, 12),
    tokens: tuple[int, int] = (1, 50),
    vocab_size: int = 500,
    word_start_prob: float = 0.8,
    unk_prob: float = 0.01,
) -> list[Document]:
    """Random documents; the numbers of sentences and of tokens per sentence are uniform in the given ranges."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(num_documents):
        lengths = random.integers(tokens[0], tokens[1] + 1, random.integers(sentences[0], sentences[1] + 1))
        ids = [random.integers(NUM_NOT_ORDINARY, vocab_size, n) for n in lengths]
        ids = [np.where(random.random(len(s)) < unk_prob, UNK, s) for s in ids]
        starts = [random.random(n) < word_start_prob for n in lengths]
        for s in starts:
            s[0] = True
        documents.append(Document(ids, starts))
    return documents
