"""Rows of TSV, CSV, JSONL and JSON files, each with the place that messages name."""

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
    """One row: its cells by column, and where it stands."""

    cells: dict[str, Any]
    place: str


@dataclass(frozen=True)
class Table:
    """The rows of a file; `columns` are names, or "1", "2", ... where `named` is false; `ordered`: not so in JSON."""

    file: Path
    columns: list[str]
    rows: list[Row]
    named: bool
    ordered: bool

    def column(self, name: str) -> list[Any]:
        return [row.cells[name] for row in self.rows if name in row.cells]

    def with_header(self) -> Table:
        """The table whose first row gives the names; the numbers remain as other names of the same columns."""
        first, *rest = self.rows
        if not rest:
            raise UserError(f"{self.file} has a header but no rows")
        names = [str(cell).strip() for cell in first.cells.values()]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"{first.place}: the header names {', '.join(map(repr, twice))} twice; rename one")
        again = next((row for row in rest if list(row.cells.values()) == list(first.cells.values())), None)
        if again is not None:
            raise UserError(f"{again.place}: the header again, as of files laid end to end; remove it")
        rows = [replace(row, cells=row.cells | dict(zip(names, row.cells.values(), strict=True))) for row in rest]
        return Table(self.file, names, rows, True, True)


def read_table(file: Path) -> Table:
    """The rows of a file, its kind told by its content.

    TSV: tabs between columns, quotes are characters like others unless all of the file is as a CSV writer would write
    it. CSV: quotes as in RFC 4180; told by the suffix .csv or by a first line without tabs whose parts between commas
    are all names that column_names.py knows. JSON: objects one after the other, or in one array, which may be a field
    of an object. Lines end at \\n or \\r\\n only; empty ones are passed over; a byte-order mark is dropped.

    Raises:
        UserError: naming file and line, for a missing file, broken UTF-8 and rows that do not fit.
    """
    text = _text(file)
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line.strip(" ")]
    if not lines:
        raise UserError(f"{file} is empty; {WANTED}")
    check_line_ends(text, str(file))
    bare = text.lstrip()
    if bare[0] == "{" or (bare[0] == "[" and bare[1:].lstrip().startswith(("{", "]"))):
        return _objects(file, text)
    first = lines[0][1]
    names = [name.strip().strip('"').lower() for name in first.split(",")]
    if "\t" not in first and (file.suffix.lower() == ".csv" or (len(names) > 1 and KNOWN.issuperset(names))):
        separator = max(",;", key=first.count)
        rule = f"columns are separated by {separator!r}; put cells that hold one in quotes"
        return _cells(file, _csv_rows(file, text, separator), rule)
    rows = [(number, line.split("\t")) for number, line in lines]
    return _cells(file, _quoted(file, text, rows) or rows, "columns are separated by one tab each")


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
    """The rows with their first lines: a quoted cell may hold line ends, so the reader gets the text as it is."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            if cells:
                rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}, line {start}: not CSV ({error}); write a quote inside a cell twice") from None
    return rows


def _quoted(file: Path, text: str, rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]] | None:
    """The rows of a TSV that a CSV writer wrote (pandas, say); None where its quotes are characters like others.

    GLUE's and CLUE's files have quotes that mean nothing, and cells between two of them. So quotes count only where
    every one is as it would be written, and where they are needed: for tabs, line ends or quotes in cells.
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
    """A table without the cells past the first row's, and the columns, that hold nothing in any row."""
    number, first = numbered[0]
    width = len(first)
    for other, cells in numbered:
        if len(cells) != width and (len(cells) < width or any(cells[width:])):
            raise UserError(f"{file}, line {other}: {len(cells)} columns, line {number} has {width}; {rule}")
    kept = [i for i in range(width) if any(cells[i] for _, cells in numbered)]
    rows = [Row({str(i + 1): cells[i] for i in kept}, f"{file}, line {line}") for line, cells in numbered]
    return Table(file, [str(i + 1) for i in kept], rows, False, True)


def _objects(file: Path, text: str) -> Table:
    """The table of JSON objects; a field that not every row has is a column too."""
    values = list(_values(file, text))
    if isinstance(values[0][1], list) and len(values) == 1:
        values = [(f"item {i}", value) for i, value in enumerate(values[0][1], 1)]
    elif isinstance(values[0][1], dict) and len(values) == 1:
        values = _inside(file, values[0])
    if not values:
        raise UserError(f"{file} is an empty JSON array; {WANTED}")
    for place, value in values:
        if not isinstance(value, dict):
            raise UserError(f"{file}, {place}: not a JSON object; write one object a row, or an array of them")
    rows = [Row(value, f"{file}, {place}") for place, value in values]
    return Table(file, list(dict.fromkeys(name for row in rows for name in row.cells)), rows, True, False)


def _values(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The JSON values of a text, which stand one after the other, and their lines."""
    decoder, at, line = json.JSONDecoder(), 0, 1
    while (begin := _BLANKS.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        line += text.count("\n", at, begin)
        try:
            value, at = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            wrong = text.count("\n", 0, getattr(error, "pos", begin)) + 1
            raise UserError(f"{file}, line {wrong}: not JSON ({error}); write one object a line") from None
        yield f"line {line}", value
        line += text.count("\n", begin, at)


def _inside(file: Path, only: tuple[str, dict[str, Any]]) -> list[tuple[str, Any]]:
    """The one object of a file as a row, or the rows that one of its fields holds."""
    held = only[1]
    if not _TEXTS.isdisjoint(map(str.lower, held)) and any(isinstance(value, str) for value in held.values()):
        return [only]
    lists = [name for name, value in held.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1:
        return [(f"{lists[0]}, item {i}", value) for i, value in enumerate(held[lists[0]], 1)]
    if all(isinstance(value, list | dict) for value in held.values()):
        names = ", ".join(held)[:80]
        raise UserError(f"{file} is one JSON object of {names}; write one object a row, or an array of them")
    return [only]
