"""Rows of TSV, CSV, JSONL and JSON files, each with the place that messages name."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from albert_fast.downstream.column_names import KNOWN
from albert_fast.options import UserError

WANTED = "give a TSV, CSV, JSONL or JSON file of texts and labels"


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

    TSV: tabs between columns, quotes are characters like others. CSV: quotes as in RFC 4180; told by the suffix .csv
    or by a first line without tabs whose parts between commas are all names that column_names.py knows. JSON: one
    object a line, or one array of objects. Lines end at \\n or \\r\\n only; empty ones are passed over; a byte-order
    mark is dropped.

    Raises:
        UserError: naming file and line, for a missing file, broken UTF-8 and rows that do not fit.
    """
    lines = _lines(file)
    if not lines:
        raise UserError(f"{file} is empty; {WANTED}")
    first = lines[0][1]
    if first.lstrip().startswith("{"):
        return _json_lines(file, lines)
    text = "\n".join(line for _, line in lines)
    if first.lstrip().startswith("[") and text.lstrip()[1:].lstrip().startswith(("{", "]")):
        return _json_document(file, text)
    names = [name.strip().strip('"').lower() for name in first.split(",")]
    if "\t" not in first and (file.suffix.lower() == ".csv" or (len(names) > 1 and KNOWN.issuperset(names))):
        return _csv_rows(file, first)
    return _cells(file, [(number, line.split("\t")) for number, line in lines], "columns are separated by one tab each")


def _lines(file: Path) -> list[tuple[int, str]]:
    """(line number from 1, text) of every line that is not empty."""
    lines = []
    for number, line in enumerate(_content(file).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file}, line {number}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
        if text:
            lines.append((number, text))
    return lines


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; {WANTED}") from None


def _csv_rows(file: Path, first: str) -> Table:
    """A quoted cell may hold line ends, so the reader gets the file as it is."""
    separator = max(",;", key=first.count)
    reader = csv.reader(io.StringIO(_content(file).decode("utf-8-sig"), newline=""), delimiter=separator, strict=True)
    numbered: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            if cells:
                numbered.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}, line {start}: not CSV ({error}); write a quote inside a cell twice") from None
    return _cells(file, numbered, f"columns are separated by {separator!r}; put cells that hold one in quotes")


def _cells(file: Path, numbered: list[tuple[int, list[str]]], rule: str) -> Table:
    number, first = numbered[0]
    for other, cells in numbered:
        if len(cells) != len(first):
            raise UserError(f"{file}, line {other}: {len(cells)} columns, line {number} has {len(first)}; {rule}")
    columns = [str(i) for i in range(1, len(first) + 1)]
    rows = [Row(dict(zip(columns, cells, strict=True)), f"{file}, line {line}") for line, cells in numbered]
    return Table(file, columns, rows, False, True)


def _json_lines(file: Path, lines: list[tuple[int, str]]) -> Table:
    rows = []
    for number, text in lines:
        try:
            value = json.loads(text)
        except ValueError as error:
            whole = _parsed("\n".join(line for _, line in lines))
            if isinstance(whole, dict):
                raise UserError(
                    f"{file} is one JSON object of {', '.join(whole)[:80]}; write one object a row, or an array of them"
                ) from None
            raise UserError(f"{file}, line {number}: not JSON ({error}); JSONL has one object a line") from None
        if not isinstance(value, dict):
            raise UserError(f"{file}, line {number}: not a JSON object; JSONL has one object a line")
        rows.append(Row(value, f"{file}, line {number}"))
    return Table(file, list(rows[0].cells), rows, True, False)


def _json_document(file: Path, text: str) -> Table:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} begins as a JSON array but is none ({error})") from None
    if not values:
        raise UserError(f"{file} is an empty JSON array; {WANTED}")
    for i, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise UserError(f"{file}, item {i}: not a JSON object; an array holds one object a row")
    rows = [Row(value, f"{file}, item {i}") for i, value in enumerate(values, 1)]
    return Table(file, list(values[0]), rows, True, False)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
