"""Splits input files into chunks of text in bounded memory; chunk boundaries depend only on the bytes themselves.

Only \\n ends a line, and a \\r before it is dropped. The end of a file ends a document; the layout defines what else
does.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from albert_fast.data.characters import whole_characters
from albert_fast.data.input_files import DOC_EDGE, InputFile, Layout, file_bytes
from albert_fast.options import UserError

CHUNK_BYTES = 1 << 19
MAX_OBJECT_BYTES = 1 << 26  # bounds the memory, since a JSON object is parsed as a whole
_TAIL_BYTES = 1 << 16
# Where a line longer than a chunk may be cut: before a blank or a CJK ideograph (UTF-8 lead bytes of U+4000..U+9FFF).
_WORD_END = re.compile(rb"(?s).*(?=[ \t\xe4-\xe9])")


@dataclass(frozen=True)
class Span:
    """Bytes start..end (None: to the end) of a file's uncompressed text, at boundaries of documents."""

    file: InputFile
    start: int
    end: int | None

    @property
    def path(self) -> str:
        return self.file.path


@dataclass(frozen=True)
class Position:
    """Start of a chunk: byte `offset` of spans[span], possibly inside a non-blank line."""

    span: int
    offset: int
    inside_line: bool = False


@dataclass(frozen=True)
class Chunk:
    """`data` between two positions; begins_span and ends_span tell whether these are the ends of the span."""

    position: Position
    end: Position
    data: bytes
    begins_span: bool
    ends_span: bool
    layout: Layout = "lines"

    @property
    def ends_line(self) -> bool:
        return self.ends_span or self.data.endswith(b"\n")


def part_spans(files: Sequence[InputFile], part: int, parts: int) -> list[Span]:
    """The spans of part `part` (1..parts); together the parts contain every document once, with about equal bytes.

    Shares are computed from the bytes of all files on disk. A plain file, or a .zst file with many frames, is split at
    the first document boundary at or after its share; a table between row groups. Other compressed files cannot be read
    from the middle and belong as a whole to the part in whose share they begin.
    """
    sizes = [file_bytes(file.path) for file in files]
    total = sum(sizes)
    low, high = total * (part - 1) // parts, total * part // parts
    spans, begin = [], 0
    for file, size in zip(files, sizes, strict=True):
        if file.is_seekable:
            if begin < high and begin + size >= low:
                text = file.text_bytes
                start, end = (_boundary(file, (edge - begin) * text // max(size, 1), text) for edge in (low, high))
                if start < end:
                    spans.append(Span(file, start, end))
        else:
            count = file.groups[1] if file.columns else 1
            owned = [index for index in range(count) if low <= begin + size * index // count < high]
            if owned:
                groups = (owned[0], owned[-1] + 1) if file.columns else file.groups
                spans.append(Span(replace(file, groups=groups), 0, None))
        begin += size
    return spans


def read_chunks(spans: list[Span], position: Position) -> Iterator[Chunk]:
    """Yield the chunks from `position` on.

    A chunk depends only on the bytes from its start, so that a resumed run makes the same chunks. It ends with a
    document if possible, else after a line, else before a word; JSON lines are never split.
    """
    for index in range(position.span, len(spans)):
        span = spans[index]
        here = position if index == position.span else Position(index, span.start)
        with span.file.open(here.offset) as file:
            data = b""
            while data := _fill(file, data, span, here.offset, CHUNK_BYTES):
                window = data[:CHUNK_BYTES]
                if len(data) < CHUNK_BYTES:
                    cut, inside = len(data), False
                elif span.file.layout == "json" and b"\n" not in window:
                    data = _finish_line(file, data, span, here.offset)
                    cut, inside = data.find(b"\n") + 1 or len(data), False
                else:
                    cut, inside = _cut(window, here.inside_line, span.file.layout)
                ends_span = len(data) < CHUNK_BYTES or (cut == len(data) and not data.endswith(b"\n"))
                end = Position(index, here.offset + cut, inside)
                yield Chunk(here, end, data[:cut], here.offset == span.start, ends_span, span.file.layout)
                here, data = end, data[cut:]


def chunk_lines(chunk: Chunk, json_field: str | None) -> list[str]:
    """The lines of a chunk, of which the first and last may be partial; see `ends_document`.

    Raises:
        TextError: invalid UTF-8, or a line that is not a JSON object with the field; with the offset in the chunk.
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
    if chunk.layout == "docs" or "</doc>" in text or "<doc" in text:
        begun, blank = int(chunk.position.inside_line), " " if chunk.layout == "docs" else ""
        lines[begun:] = ["" if DOC_EDGE.fullmatch(line) else line or blank for line in lines[begun:]]
    return lines


def ends_document(line: str, layout: Layout) -> bool:
    """Whether a line of `chunk_lines` ends a document: a blank line, or in layout docs an empty one."""
    return not (line if layout == "docs" else line.strip())


class TextError(Exception):
    """An error in the text at `offset` of a chunk; the caller knows file and line."""

    def __init__(self, offset: int, message: str):
        super().__init__(offset, message)
        self.offset = offset
        self.message = message


def locate(file: InputFile, offset: int, message: str) -> UserError:
    """UserError for byte `offset` of a file, with the line number, which is found by counting lines."""
    number, left = 1, offset
    with file.open() as text:
        while left > 0 and (block := text.read(min(left, CHUNK_BYTES))):
            number, left = number + block.count(b"\n"), left - len(block)
    return UserError(f"{file.path} line {number} (offset {offset}): {message}")


def _fill(file: BinaryIO, data: bytes, span: Span, offset: int, size: int) -> bytes:
    """Extend `data`, which begins at `offset`, to `size` bytes or to the end of the span."""
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
    """Extend `data`, which begins a line at `offset`, until that line ends."""
    while b"\n" not in data:
        if len(data) >= MAX_OBJECT_BYTES:
            raise locate(span.file, offset, f"a JSON line of over {MAX_OBJECT_BYTES >> 20} MiB; split the document")
        size = 2 * len(data)
        data = _fill(file, data, span, offset, size)
        if len(data) < size:
            break
    return data


def _cut(data: bytes, inside_line: bool, layout: Layout) -> tuple[int, bool]:
    """End of the chunk at the start of `data`, and whether that is inside a non-blank line."""
    edge = b"\n</doc>" if layout == "docs" else b"\n"
    document = max(data.rfind(edge + end) + len(edge + end) for end in (b"\n", b"\r\n"))
    if document > len(edge) + 1:
        return document, False
    if line := data.rfind(b"\n") + 1:
        return line, False
    found = _WORD_END.match(data, max(len(data) - _TAIL_BYTES, 1))
    cut = found.end() if found else len(data) - 1
    while data[cut] & 0xC0 == 0x80 and cut > len(data) - 4:  # back to the start of a UTF-8 character
        cut -= 1
    # Leading whitespace does not matter, so a line with only whitespace so far counts as not begun.
    return cut, inside_line or not data[:cut].decode("utf-8", "replace").isspace()


def _boundary(file: InputFile, target: int, size: int) -> int:
    """End of the first line at or after byte `target` that ends a document."""
    if target <= 0 or target >= size:
        return min(max(target, 0), size)
    with file.open(target - 1) as text:
        offset, has_text = target - 1, True  # the line of byte target - 1 began before target
        while piece := text.readline(CHUNK_BYTES):  # a line, or part of a long one
            offset += len(piece)
            is_edge = piece.strip() == b"</doc>" if file.layout == "docs" else not piece.strip()
            if piece.endswith(b"\n") and (file.layout == "json" or (is_edge and not has_text)):
                return offset
            has_text = not piece.endswith(b"\n") and (has_text or bool(piece.strip()))
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
    text = value[name]
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n".join(text)
    if not isinstance(text, str):
        raise TextError(offset, f"field {name!r} holds {type(text).__name__}, not a string or a list of them")
    return whole_characters(text)
