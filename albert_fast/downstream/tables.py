"""Reads TSV, CSV, JSONL and JSON files into rows that know their file and line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from albert_fast.data.characters import check_line_ends
from albert_fast.data.foreign import foreign_kind
from albert_fast.downstream.column_names import KNOWN, PAIRS, SINGLES
from albert_fast.options import UserError

WANTED = "give a TSV, CSV, JSONL or JSON file of texts and labels"
_BLANKS = re.compile(r"[ \t\r\n]*")
_TEXTS = frozenset((*SINGLES, *(name for pair in PAIRS for name in pair)))


@dataclass(frozen=True)
class Row:
    """One row: its cells by column, and its file and line for messages."""

    cells: dict[str, Any]
    place: str


@dataclass(frozen=True)
class Table:
    """The rows of a file. Columns are "1", "2", ... unless `named`; they are `ordered` except in JSON."""

    file: Path
    columns: list[str]
    rows: list[Row]
    named: bool
    ordered: bool

    def column(self, name: str) -> list[Any]:
        return [row.cells[name] for row in self.rows if name in row.cells]

    def with_header(self) -> Table:
        """The table with its first row as column names. Cells can still be looked up by column number as well."""
        first, *rest = self.rows
        if not rest:
            raise UserError(f"{self.file} has a header but no rows; add rows, or set --no-header")
        names = [str(cell).strip() for cell in first.cells.values()]
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise UserError(f"{first.place}: duplicate column names {', '.join(map(repr, repeated))}; rename them")
        for row in rest:
            if list(row.cells.values()) == list(first.cells.values()):
                raise UserError(f"{row.place}: the header is repeated, as in concatenated files; remove this line")
        rows = [replace(row, cells=row.cells | dict(zip(names, row.cells.values(), strict=True))) for row in rest]
        return Table(self.file, names, rows, True, True)


def read_table(file: Path) -> Table:
    """Read a file; its format is detected from its content.

    TSV: quotes are ordinary characters, unless the whole file is quoted exactly as a CSV writer would. CSV: quoted as
    in RFC 4180; detected by the suffix .csv, or by a first line without tabs whose comma-separated parts are all known
    column names. JSON: concatenated objects, or one array of objects, which may be a field of an object. Lines end with
    \\n or \\r\\n only; blank lines are skipped and a byte-order mark is dropped.

    Raises:
        UserError: missing file, invalid UTF-8 or malformed rows; the message names file and line.
    """
    text = _text(file)
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line.strip(" ")]
    if not lines:
        raise UserError(f"{file} is empty; {WANTED}")
    check_line_ends(text, str(file))
    if re.match(r"\s*(\{|\[\s*[{\]])", text):
        return _objects(file, text)
    first = lines[0][1]
    names = [name.strip().strip('"').lower() for name in first.split(",")]
    if "\t" not in first and (file.suffix.lower() == ".csv" or (len(names) > 1 and KNOWN.issuperset(names))):
        separator = max(",;", key=first.count)
        rule = f"columns are separated by {separator!r}; quote cells that contain one"
        return _cells(file, _csv_rows(file, text, separator), rule)
    rows = [(number, line.split("\t")) for number, line in lines]
    return _cells(file, _quoted(file, text, rows) or rows, "columns are separated by single tabs")


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; {WANTED}") from None
    if kind := foreign_kind(content[:512]):
        raise UserError(f"{file} is {kind[0]}; {WANTED}, in UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line, place = content.count(b"\n", 0, error.start) + 1, error.start - content.rfind(b"\n", 0, error.start) - 1
        raise UserError(f"{file}, line {line}: not UTF-8 at byte {place}; save the file as UTF-8") from None


def _csv_rows(file: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """The rows with their first line numbers. The csv reader splits the lines: quoted cells may contain line breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            if cells:
                rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}, line {start}: invalid CSV ({error}); double the quotes inside cells") from None
    return rows


def _quoted(file: Path, text: str, rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]] | None:
    """The rows of a TSV written by a CSV writer such as pandas; None if its quotes are ordinary characters.

    GLUE and CLUE contain literal quotes, even around whole cells. Quotes are therefore special only if writing the
    parsed rows gives the same file back, and if they are needed for tabs, line breaks or quotes in cells.
    """
    if '"' not in text:
        return None
    one_width = len({len(cells) for _, cells in rows}) == 1
    all_quoted = all(len(cell) > 1 and cell[0] == cell[-1] == '"' for _, cells in rows for cell in cells)
    if one_width and '""' not in text and not all_quoted:
        return None
    try:
        parsed = _csv_rows(file, text, "\t")
    except UserError:
        return None
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        written = io.StringIO()
        csv.writer(written, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(row for _, row in parsed)
        if written.getvalue().rstrip("\n") == text.replace("\r\n", "\n").rstrip("\n"):
            return parsed
    return None


def _cells(file: Path, numbered: list[tuple[int, list[str]]], rule: str) -> Table:
    """Build a table, dropping empty columns and empty cells beyond the width of the first row."""
    first, width = numbered[0][0], len(numbered[0][1])
    for line, cells in numbered:
        if len(cells) < width or any(cells[width:]):
            raise UserError(f"{file}, line {line}: {len(cells)} columns, but line {first} has {width}; {rule}")
    kept = [i for i in range(width) if any(cells[i] for _, cells in numbered)]
    rows = [Row({str(i + 1): cells[i] for i in kept}, f"{file}, line {line}") for line, cells in numbered]
    return Table(file, [str(i + 1) for i in kept], rows, False, True)


def _objects(file: Path, text: str) -> Table:
    """Build a table from JSON objects; its columns are the union of their fields."""
    values = list(_values(file, text))
    if isinstance(values[0][1], list) and len(values) == 1:
        values = [(f"item {i}", value) for i, value in enumerate(values[0][1], 1)]
    elif isinstance(values[0][1], dict) and len(values) == 1:
        values = _inside(file, values[0])
    if not values:
        raise UserError(f"{file} is an empty JSON array; {WANTED}")
    for place, value in values:
        if not isinstance(value, dict):
            raise UserError(f"{file}, {place}: not a JSON object; write one object per row, or an array of objects")
    rows = [Row(value, f"{file}, {place}") for place, value in values]
    return Table(file, list(dict.fromkeys(name for row in rows for name in row.cells)), rows, True, False)


def _values(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The concatenated JSON values of a text, each with its line."""
    decoder, at, line = json.JSONDecoder(), 0, 1
    while (begin := _BLANKS.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        line += text.count("\n", at, begin)
        try:
            value, at = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            wrong = text.count("\n", 0, getattr(error, "pos", begin)) + 1
            raise UserError(f"{file}, line {wrong}: invalid JSON ({error}); write one object per line") from None
        yield f"line {line}", value
        line += text.count("\n", begin, at)


def _inside(file: Path, only: tuple[str, dict[str, Any]]) -> list[tuple[str, Any]]:
    """The rows of a file with a single JSON object: the object itself, or the list of objects in one of its fields."""
    fields = only[1]
    if not _TEXTS.isdisjoint(map(str.lower, fields)) and any(isinstance(value, str) for value in fields.values()):
        return [only]
    lists = [name for name, value in fields.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1:
        return [(f"{lists[0]}, item {i}", value) for i, value in enumerate(fields[lists[0]], 1)]
    if all(isinstance(value, list | dict) for value in fields.values()):
        names = ", ".join(fields)[:80]
        raise UserError(f"{file} is one JSON object with {names}; write one object per row, or an array of objects")
    return [only]
