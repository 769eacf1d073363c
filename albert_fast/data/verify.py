"""`verify`: every file of a prepared folder and every byte of it, held against the checksums and against the format."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from albert_fast._loader import crc32c
from albert_fast.data.manifest import MANIFEST, Manifest, open_folder
from albert_fast.data.shards import FIRST_OF_DOCUMENT, HEADER, MAX_PAGE_TOKENS, PAGE, VERSION, page_bytes
from albert_fast.data.tokenizer import Tokenizer, load_tokenizer
from albert_fast.options import Options, UserError, option


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """Check a prepared folder to its last byte."""

    data: str = option(help="prepared folder", positional=True)


def verify(options: VerifyOptions) -> None:
    """Check every file of a prepared folder and every byte of it; prints one line where all is as it was written.

    Raises:
        UserError: what is wrong first, with file and offset.
    """
    began = time.monotonic()
    manifest = open_folder(options.data)
    shards = {entry["file"]: entry for entry in manifest.data["shards"]}
    files = {**manifest.data["files"], **shards}
    for name in sorted(os.listdir(manifest.directory)):
        if name != MANIFEST and name not in files:
            raise _fault(manifest.directory / name, 0, "is not in the manifest; remove it, or prepare the folder again")
    for name, entry in files.items():
        _check_size(manifest.directory / name, entry["bytes"])
        if name not in shards:
            with _open(manifest.directory / name) as file:
                _expect(file.name, 0, "CRC32C", crc32c(file.read()), entry["crc32c"])
    tokenizer = load_tokenizer(manifest.directory / "tokenizer.json")
    name = str(manifest.directory / "tokenizer.json")
    _expect(name, 0, "vocabulary fingerprint", tokenizer.fingerprint.hex(), manifest.data["vocabulary_fingerprint"])
    for entry in shards.values():
        with _open(manifest.directory / entry["file"]) as file:
            _Shard(file, entry, manifest, tokenizer).verify()
    for key in ("tokens", "sentences", "documents"):
        total = sum(entry[key] for entry in shards.values())
        _expect(str(manifest.directory / MANIFEST), 0, f"total of {key}", total, manifest.data[key])
    size = sum(entry["bytes"] for entry in files.values())
    seconds = time.monotonic() - began
    print(
        f"{manifest.directory}: {len(files) + 1} files, {size / 1e6:,.1f} MB, {manifest.tokens:,} tokens: "
        f"every byte is as it was written ({size / 1e6 / max(seconds, 1e-9):,.0f} MB/s)"
    )


class _Shard:
    """One shard, read once from front to back after its table and lengths, which lie at its end."""

    def __init__(self, file: BinaryIO, entry: dict[str, Any], manifest: Manifest, tokenizer: Tokenizer):
        self._file, self._entry, self._manifest, self._tokenizer = file, entry, manifest, tokenizer
        self._crc = 0

    def verify(self) -> None:
        self._header = header = self._check_header()
        table_offset, lengths_offset = int(header["table_offset"]), int(header["lengths_offset"])
        table = np.frombuffer(self._read(table_offset, int(header["num_pages"]) * PAGE.itemsize), PAGE)
        self._expect(table_offset, "page table's CRC32C", crc32c(table), int(header["table_crc"]))
        packed = np.frombuffer(self._read(lengths_offset, int(header["num_sentences"]) * 2), "<u2")
        first = packed >= FIRST_OF_DOCUMENT
        lengths = (packed & (FIRST_OF_DOCUMENT - 1)).astype(np.int64)
        self._file.seek(0)
        self._next(HEADER.itemsize)
        sentence, tokens = 0, 0
        for page in table:
            count = int(page["num_sentences"])
            place = lengths_offset + 2 * sentence
            self._expect(self._offset, "page's offset in the table", int(page["offset"]), self._offset)
            self._expect(place, "page's first sentence in the table", int(page["first_sentence"]), sentence)
            mine = slice(sentence, sentence + count)
            self._expect(place, "lengths' CRC32C", crc32c(packed[mine]), int(page["lengths_crc"]))
            self._check_page(page)
            sound = count > 0 and bool(first[sentence]) and bool((lengths[mine] > 0).all())
            self._expect(place, "lengths of a page", (sound, int(lengths[mine].sum())), (True, int(page["num_tokens"])))
            sentence, tokens = sentence + count, tokens + int(page["num_tokens"])
        totals = (tokens, sentence, int(first.sum()))
        recorded = tuple(int(header[f"num_{key}"]) for key in ("tokens", "sentences", "documents"))
        self._expect(table_offset, "sums of tokens, sentences and documents", totals, recorded)
        self._check_ordinary()
        self._expect(self._offset, "place of the lengths", lengths_offset, self._offset)
        self._next_padded(packed.nbytes)
        self._expect(self._offset, "place of the page table", table_offset, self._offset)
        self._next_padded(table.nbytes)
        self._expect(self._offset, "size", self._offset, int(header["file_bytes"]))
        self._expect(0, "CRC32C of the file", self._crc, self._entry["crc32c"])

    def _check_header(self) -> Any:
        content = self._read(0, HEADER.itemsize)
        header = np.frombuffer(content, HEADER)[0]
        self._expect(0, "header's CRC32C", crc32c(content[:-4]), int(header["header_crc"]))
        tokenizer = self._tokenizer
        expected = {"magic": b"ALBERTFS", "version": VERSION, "vocab_size": tokenizer.vocab_size}
        expected |= {name: getattr(tokenizer, name) for name in ("cls_id", "sep_id", "mask_id", "unk_id", "pad_id")}
        expected |= {"file_bytes": self._entry["bytes"], "num_tokens": self._entry["tokens"]}
        expected |= {f"num_{key}": self._entry[key] for key in ("sentences", "documents")}
        expected |= {"token_bytes": 2 if tokenizer.vocab_size <= 65_536 else 4}
        expected |= {"flags": int(self._manifest.data["segmenter"] != "none")}
        for name, value in expected.items():
            self._expect(HEADER.fields[name][1], name, header[name], value)  # type: ignore[index]
        self._expect(104, "vocabulary fingerprint", header["fingerprint"].tobytes().hex(), tokenizer.fingerprint.hex())
        return header

    def _check_page(self, page: Any) -> None:
        offset = self._offset
        if not 0 < int(page["num_tokens"]) <= MAX_PAGE_TOKENS:
            raise _fault(self._file.name, offset, f"a page of {page['num_tokens']} tokens; damaged")
        data = self._next(page_bytes(page, self._header))
        self._expect(offset, "page's CRC32C", crc32c(data), int(page["page_crc"]))
        tokens, width = int(page["num_tokens"]), int(self._header["token_bytes"])
        size, bits = tokens * width, (tokens + 7) // 8
        begin = size + -size % 64
        last = data[begin + bits - 1] >> (tokens % 8 or 8)  # the last byte's bits past the last token
        if last or any(data[size:begin]) or any(data[begin + bits :]):
            raise _fault(self._file.name, offset, "a page's padding is not zero; damaged")
        highest = int(np.frombuffer(data, f"<u{width}", tokens).max())
        if highest >= self._tokenizer.vocab_size:
            raise _fault(self._file.name, offset, f"a page holds id {highest} of {self._tokenizer.vocab_size}; damaged")

    def _check_ordinary(self) -> None:
        offset = self._offset
        self._expect(offset, "place of the ordinary ids", int(self._header["ordinary_offset"]), offset)
        bitmap = self._next_padded((self._tokenizer.vocab_size + 7) // 8)
        crc = int.from_bytes(self._next_padded(4), "little")
        self._expect(offset, "ordinary ids' CRC32C", crc32c(bitmap), crc)
        expected = np.packbits(self._tokenizer.is_ordinary, bitorder="little").tobytes()
        self._expect(offset, "ordinary ids", bitmap == expected, True)
        self._expect(144, "num_ordinary", int(self._header["num_ordinary"]), int(self._tokenizer.is_ordinary.sum()))

    @property
    def _offset(self) -> int:
        return self._file.tell()

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise _fault(self._file.name, offset + len(data), "ends here, before what its header describes")
        return data

    def _next(self, size: int) -> bytes:
        data = self._read(self._offset, size)
        self._crc = crc32c(data, self._crc)
        return data

    def _next_padded(self, size: int) -> bytes:
        offset = self._offset + size
        data = self._next(size + -size % 64)
        if any(data[size:]):
            raise _fault(self._file.name, offset, "padding is not zero; damaged")
        return data[:size]

    def _expect(self, offset: int, what: str, found: Any, expected: Any) -> None:
        _expect(self._file.name, offset, what, found, expected)


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise _fault(path, 0, f"{error.strerror}; prepare the folder again") from None


def _check_size(path: Path, expected: int) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _fault(path, 0, f"{error.strerror}; prepare the folder again") from None
    if not stat.S_ISREG(status.st_mode):
        raise _fault(path, 0, "is no regular file; prepare the folder again")
    if status.st_size < expected:
        raise _fault(path, status.st_size, f"the file ends here, {expected} bytes were written; prepare it again")
    if status.st_size > expected:
        raise _fault(
            path, expected, f"the file was written up to here and has {status.st_size} bytes; prepare it again"
        )


def _expect(path: str | Path, offset: int, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise _fault(path, offset, f"{what} is {found}, not {expected}: damaged or changed; prepare the folder again")


def _fault(path: str | Path, offset: int, message: str) -> UserError:
    return UserError(f"data {path}: offset {offset}: {message}")
