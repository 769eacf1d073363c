"""Reads labelled sentences and sentence pairs from TSV and JSONL files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_fast.options import Options, UserError, option

# Names that published data sets give their columns, ours first; what is not named is found by these.
TEXT_A = ("text_a", "sentence1", "sentence", "text", "question1", "premise", "review", "content")
TEXT_B = ("text_b", "sentence2", "question2", "hypothesis")
LABEL = ("label", "labels", "gold_label", "class", "category")


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Options):
    """Where the texts and labels stand in the files (TSV with or without a header, or JSONL)."""

    text_a: str | None = option(
        None, "column of the first sentence, its name or its number from 1 (found by name, or 1)"
    )
    text_b: str | None = option(None, "column of the second sentence, or none (found by name, or 2 of 3 columns)")
    label: str | None = option(None, "column of the label, or none (found by name, or the last of 2 or 3 columns)")
    header: bool | None = option(None, "whether a TSV's first line names the columns (found out by the names)")


@dataclass(frozen=True)
class Example:
    """One row: a sentence or a pair, its class as text (None: unlabelled), and where it stands for messages."""

    text_a: str
    text_b: str | None
    label: str | None
    place: str


def read_examples(file: str | Path, columns: ColumnOptions | None = None) -> list[Example]:
    """The rows of a TSV file (tabs between columns, quotes are characters like others) or of a JSONL file.

    Lines end at \\n or \\r\\n only; empty ones are passed over; a byte-order mark is dropped.

    Raises:
        UserError: naming file and line, for a missing file, broken UTF-8, a row that does not fit, no such column.
    """
    columns, file = columns or ColumnOptions(), Path(file)
    lines = list(_lines(file))
    if not lines:
        raise UserError(f"{file} is empty; give a TSV or JSONL file of texts and labels")
    is_json = lines[0][1].lstrip().startswith("{")
    rows = _json_rows(file, lines) if is_json else _tsv_rows(file, lines, columns)
    return [_example(row, place) for row, place in _pick(file, rows, columns)]


def class_names(examples: list[Example]) -> list[str]:
    """The distinct labels: in numeric order where all are whole numbers, else in alphabetical order."""
    for example in examples:
        if example.label is None:
            raise UserError(f"{example.place}: no label; training and development files need one in every row")
    names = {str(example.label) for example in examples}
    numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numeric else None)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not empty."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; give a TSV or JSONL file of texts and labels") from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file}, line {number}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
        if text:
            yield number, text


def _json_rows(file: Path, lines: list[tuple[int, str]]) -> list[tuple[dict[str, Any], str]]:
    rows = []
    for number, text in lines:
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: not JSON ({error}); JSONL has one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: not a JSON object; JSONL has one object a line")
        rows.append((row, f"{file}, line {number}"))
    return rows


def _tsv_rows(file: Path, lines: list[tuple[int, str]], columns: ColumnOptions) -> list[tuple[dict[str, Any], str]]:
    """Rows as dictionaries by column name where there is a header, and by number ("1", "2", ...) always."""
    first = lines[0][1].split("\t")
    wanted = {name for name in (columns.text_a, columns.text_b, columns.label) if name and not name.isdigit()}
    known = {name for names in (TEXT_A, LABEL) for name in names}
    has_header = columns.header
    if has_header is None:
        has_header = bool(wanted & set(first)) or len(known & {name.strip().lower() for name in first}) >= 2
    names = [name.strip() for name in first] if has_header else []
    rows = []
    for number, text in lines[1:] if has_header else lines:
        cells = text.split("\t")
        if len(cells) != len(first):
            raise UserError(
                f"{file}, line {number}: {len(cells)} columns, line {lines[0][0]} has {len(first)}; columns are "
                "separated by one tab each"
            )
        row = {str(i): cell for i, cell in enumerate(cells, 1)}
        rows.append((row | dict(zip(names, cells, strict=False)), f"{file}, line {number}"))
    if not rows:
        raise UserError(f"{file} has a header but no rows")
    return rows


def _pick(
    file: Path, rows: list[tuple[dict[str, Any], str]], columns: ColumnOptions
) -> Iterator[tuple[tuple[Any, Any, Any], str]]:
    """(text_a, text_b, label) of every row, by the columns asked for, known names, or position."""
    keys = list(rows[0][0])
    width = sum(key.isdigit() for key in keys)
    lower = {key.lower(): key for key in reversed(keys)}

    def find(option_name: str, asked: str | None, known: tuple[str, ...], position: int | None) -> str | None:
        if asked == "none":
            return None
        if asked is not None:
            if asked not in keys:
                there = ", ".join(key for key in keys if not key.isdigit()) or f"1 to {width}"
                raise UserError(f"{option_name}={asked}: {file} has no such column; its columns are {there}")
            return asked
        named = next((lower[name] for name in known if name in lower), None)
        return named or (str(position) if position and not any(not key.isdigit() for key in keys) else None)

    text_a = find("text_a", columns.text_a, TEXT_A, 1)
    text_b = find("text_b", columns.text_b, TEXT_B, 2 if width >= 3 and columns.text_a is None else None)
    label = find("label", columns.label, LABEL, width if 2 <= width <= 3 else None)
    if text_a is None:
        raise UserError(f"{file}: which column holds the text? It has {', '.join(keys)}; name it with --text_a")
    for row, place in rows:
        missing = [key for key in (text_a, text_b, label) if key is not None and key not in row]
        if missing:
            raise UserError(f"{place}: no {missing[0]!r}, which the first row has")
        yield (row[text_a], None if text_b is None else row[text_b], None if label is None else row[label]), place


def _example(cells: tuple[Any, Any, Any], place: str) -> Example:
    text_a, text_b, label = cells
    for text in (text_a, text_b):
        if text is not None and not isinstance(text, str):
            raise UserError(f"{place}: a text is {json.dumps(text)[:40]}, not a string")
    if label is not None and not isinstance(label, str):
        label = json.dumps(label)
    if label == "":
        raise UserError(f"{place}: the label is empty")
    return Example(text_a, text_b, label, place)
