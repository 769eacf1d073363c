"""Raw text files to chunks of bytes, in bounded memory, each cut where nothing but its own bytes decides.

One sentence a line, a blank line between documents; only \\n ends a line, a \\r before it goes. A file's end ends a
document. With a JSON field, a line holds one object, which is a document, and the field's lines are its sentences.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from albert_fast.options import UserError

CHUNK_BYTES = 1 << 19
MAX_OBJECT_BYTES = 1 << 26  # one JSON object is parsed whole, so it bounds the memory
_TAIL_BYTES = 1 << 16
# In a line longer than a chunk: before a blank or a CJK ideograph (UTF-8 lead bytes of U+4000..U+9FFF) no word goes on.
_WORD_END = re.compile(rb"(?s).*(?=[ \t\xe4-\xe9])")


@dataclass(frozen=True)
class Span:
    """Bytes start..end of a file's text (uncompressed); end None: to its end. Begins and ends between documents."""

    path: str
    start: int
    end: int | None


@dataclass(frozen=True)
class Position:
    """Where a chunk begins: in spans[span] at byte `offset` of the file, perhaps inside a line that has text."""

    span: int
    offset: int
    inside_line: bool = False


@dataclass(frozen=True)
class Chunk:
    """`data` lies between two positions, which may be its span's first or, as far as its reader knows, last."""

    position: Position
    end: Position
    data: bytes
    begins_span: bool
    ends_span: bool

    @property
    def ends_line(self) -> bool:
        return self.ends_span or self.data.endswith(b"\n")


def part_spans(paths: tuple[str, ...], part: int, parts: int, lines_are_documents: bool) -> list[Span]:
    """The spans of part `part` (1..parts): together the parts hold every document once, each about as many bytes.

    A plain file is cut at the first boundary of documents at or after its share of the bytes of all files on disk.
    A gzip file cannot be entered in its middle and belongs whole to the part in whose share it begins.
    """
    sizes = [_file_bytes(path) for path in paths]
    total = sum(sizes)
    low, high = total * (part - 1) // parts, total * part // parts
    spans, begin = [], 0
    for path, size in zip(paths, sizes, strict=True):
        if path.endswith(".gz"):
            if low <= begin < high:
                spans.append(Span(path, 0, None))
        elif begin < high and begin + size >= low:
            start = _boundary(path, low - begin, size, lines_are_documents)
            end = _boundary(path, high - begin, size, lines_are_documents)
            if start < end:
                spans.append(Span(path, start, end))
        begin += size
    return spans


def read_chunks(spans: list[Span], position: Position, lines_are_documents: bool) -> Iterator[Chunk]:
    """The chunks from `position` on. A chunk depends on the bytes from its beginning alone, so that a run begun at
    any chunk goes on as the one that was stopped there. It ends after a blank line where it can, else after a line,
    else before a word; JSON lines are never cut."""
    for index in range(position.span, len(spans)):
        span = spans[index]
        here = position if index == position.span else Position(index, span.start)
        with open_text(span.path, here.offset) as file:
            data = b""
            while data := _fill(file, data, span, here.offset, CHUNK_BYTES):
                window = data[:CHUNK_BYTES]
                if len(data) < CHUNK_BYTES:
                    cut, inside = len(data), False
                elif lines_are_documents and b"\n" not in window:
                    data = _finish_line(file, data, span, here.offset)
                    cut, inside = data.find(b"\n") + 1 or len(data), False
                else:
                    cut, inside = _cut(window, here.inside_line)
                ends_span = len(data) < CHUNK_BYTES or (cut == len(data) and not data.endswith(b"\n"))
                end = Position(index, here.offset + cut, inside)
                yield Chunk(here, end, data[:cut], here.offset == span.start, ends_span)
                here, data = end, data[cut:]


def chunk_lines(chunk: Chunk, json_field: str | None) -> list[str]:
    """The lines of a chunk, the first and the last perhaps in parts; a document's end is a line of only whitespace.

    Raises:
        TextError: with the offset in the chunk of a byte that is not UTF-8, or of a line that is no such object.
    """
    try:
        text = chunk.data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = chunk.data[error.start]
        raise TextError(error.start, f"byte 0x{byte:02x} is not valid UTF-8; save the file as UTF-8") from None
    if chunk.position.offset == 0:
        text = text.removeprefix("\ufeff")
    if json_field is not None:
        return _object_lines(text, json_field)
    lines = text.removesuffix("\n").split("\n")
    if "\r" in text:
        *complete, last = lines
        lines = [line.removesuffix("\r") for line in complete]
        lines.append(last.removesuffix("\r") if chunk.ends_line else last)
    return lines


class TextError(Exception):
    """What is wrong with the text at `offset` of a chunk; the reader of the chunk knows its file and line."""

    def __init__(self, offset: int, message: str):
        super().__init__(offset, message)
        self.offset = offset
        self.message = message


def locate(path: str, offset: int, message: str) -> UserError:
    """The user's error for what stands at byte `offset` of a file: names the line, found by counting those before."""
    number, left = 1, offset
    with open_text(path, 0) as file:
        while left > 0 and (block := file.read(min(left, CHUNK_BYTES))):
            number, left = number + block.count(b"\n"), left - len(block)
    return UserError(f"{path} line {number} (offset {offset}): {message}")


def open_text(path: str, offset: int) -> BinaryIO:
    """Open a plain or gzip file at `offset` of its text; failures name the file."""
    try:
        file = _Gzip(path) if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
        file.seek(offset)
        return file  # type: ignore[return-value]
    except OSError as error:
        raise UserError(f"input {path}: {error.strerror or error}") from None


class _Gzip(gzip.GzipFile):
    """A gzip file whose damage is a UserError with its name."""

    def read(self, size: int | None = -1) -> bytes:
        try:
            return super().read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"input {self.name}: damaged or cut gzip ({error}); check it with gzip -t") from None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"input {self.name}: damaged or cut gzip ({error}); check it with gzip -t") from None


def _file_bytes(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"input {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"input {path}: is no regular file; prepare reads files, to be able to go on where it stopped")
    open_text(path, 0).close()
    return status.st_size


def _fill(file: BinaryIO, data: bytes, span: Span, offset: int, size: int) -> bytes:
    """`data`, which begins at `offset`, filled up to `size` bytes or to the end of the span."""
    blocks = [data]
    have = len(data)
    while have < size:
        want = size - have if span.end is None else min(size - have, span.end - offset - have)
        try:
            block = file.read(want) if want > 0 else b""
        except OSError as error:
            raise UserError(f"input {span.path}: {error.strerror or error}") from None
        if not block:
            if span.end is not None and want > 0:
                raise UserError(f"input {span.path}: shrank to {offset + have} bytes while it was read")
            break
        blocks.append(block)
        have += len(block)
    return b"".join(blocks)


def _finish_line(file: BinaryIO, data: bytes, span: Span, offset: int) -> bytes:
    """`data`, which begins a line at `offset`, with more of the span until that line ends."""
    while b"\n" not in data:
        if len(data) >= MAX_OBJECT_BYTES:
            raise locate(span.path, offset, f"a JSON line of over {MAX_OBJECT_BYTES >> 20} MiB; split the document")
        size = 2 * len(data)
        data = _fill(file, data, span, offset, size)
        if len(data) < size:
            break
    return data


def _cut(data: bytes, inside_line: bool) -> tuple[int, bool]:
    """Where the chunk that begins `data` ends, and whether that is inside a line that has text."""
    blank = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
    if blank > 2:
        return blank, False
    if line := data.rfind(b"\n") + 1:
        return line, False
    found = _WORD_END.match(data, max(len(data) - _TAIL_BYTES, 1))
    cut = found.end() if found else len(data) - 1
    while data[cut] & 0xC0 == 0x80 and cut > len(data) - 4:  # back to the beginning of a character
        cut -= 1
    # Whitespace before a line's first text changes nothing, so a line that has none yet counts as not begun.
    return cut, inside_line or not data[:cut].decode("utf-8", "replace").isspace()


def _boundary(path: str, target: int, size: int, lines_are_documents: bool) -> int:
    """The end of the first blank line (for JSON lines, of any line) that begins at or after byte `target`."""
    if target <= 0 or target >= size:
        return min(max(target, 0), size)
    with open_text(path, target - 1) as file:
        offset, has_text = target - 1, True  # the line of byte target - 1 began before target
        while block := file.read(CHUNK_BYTES):
            begin = 0
            while end := block.find(b"\n", begin) + 1:
                if lines_are_documents or not (has_text or block[begin:end].strip()):
                    return offset + end
                begin, has_text = end, False
            has_text = has_text or bool(block[begin:].strip())
            offset += len(block)
    return size


def _object_lines(text: str, json_field: str) -> list[str]:
    lines: list[str] = []
    offset = 0
    for line in text.split("\n"):
        if line.strip():
            lines.append("")
            lines.extend(
                part.removesuffix("\r") for part in _field(line, json_field, offset).split("\n") if part.strip()
            )
        offset += len(line.encode("utf-8")) + 1
    return [*lines, ""]


def _field(line: str, name: str, offset: int) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(offset, f"not a JSON object ({error})") from None
    if not isinstance(value, dict) or name not in value:
        keys = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise TextError(offset, f"no field {name!r} (found: {keys[:200]}); name one with --json_field")
    if not isinstance(value[name], str):
        raise TextError(offset, f"field {name!r} holds {type(value[name]).__name__}, not a string")
    return value[name].encode("utf-8", "surrogatepass").decode("utf-8", "replace")
