"""Reads sentences and sentence pairs, with or without labels, from TSV, CSV, JSONL and JSON files."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from albert_fast.data.characters import whole_characters
from albert_fast.downstream.columns import ColumnOptions, Columns, Expected, find_columns
from albert_fast.downstream.labels import class_names, distinct, is_no_label, label_text
from albert_fast.downstream.tables import Row, read_table
from albert_fast.options import UserError, note


@dataclass(frozen=True)
class Example:
    """One row: a sentence or a pair, its class as text (None: unlabelled), and its file and line for messages."""

    text_a: str
    text_b: str | None
    label: str | None
    place: str


@dataclass(frozen=True)
class Examples:
    """The rows of `file`, and the columns they come from."""

    file: Path
    rows: list[Example]
    columns: Columns

    @property
    def labelled(self) -> list[Example]:
        """The rows that have a label."""
        return [example for example in self.rows if example.label is not None]

    def class_names(self) -> list[str]:
        """The classes found in the labels; UserError if the labels cannot be classes."""
        where = f"{self.file}, column {self.columns.label}"
        return class_names([str(example.label) for example in self.labelled], where)

    def describe(self) -> None:
        """Print a one-line note: header, text and label columns, classes, and the number of rows without a label."""
        columns, labelled = self.columns, self.labelled
        parts = [f"{len(self.rows):,} rows"]
        if columns.header is not None:
            parts.append(f"header {', '.join(columns.header)}" if columns.header else "no header")
        parts.append(f"text {columns.text_a}" + (f" with {columns.text_b}" if columns.text_b else ""))
        if columns.label is None or not labelled:
            parts.append("no label")
        else:
            names = distinct(str(example.label) for example in labelled)
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            parts.append(f"label {columns.label}, {len(names)} classes: {shown}")
            if unlabelled := len(self.rows) - len(labelled):
                parts.append(f"unlabelled rows, not used for training or scores: {unlabelled:,}")
        note(f"{self.file}: {'; '.join(parts)}")


def read_examples(file: str | Path, columns: ColumnOptions | None = None, expected: Expected | None = None) -> Examples:
    """Read a TSV, CSV, JSONL or JSON file (see `read_table`) from the columns that `find_columns` detects.

    Labels are stripped; placeholders for a missing label (see `is_no_label`) become None. A text given as a list of
    strings, such as CSL's keywords, is joined with spaces.

    Raises:
        UserError: missing file, invalid UTF-8, malformed row or missing column; the message names file and line.
    """
    columns, expected = columns or ColumnOptions(), expected or Expected()
    table, found = find_columns(read_table(Path(file)), columns, expected)
    classes = set(expected.classes or ())
    if expected.classes is None and found.label is not None:
        # Every label is a class, except `-` if there is no `+`.
        labels = (label_text(row.cells.get(found.label)) for row in table.rows)
        classes = {label for label in labels if label is not None}
        classes -= set() if "+" in classes else {"-"}
    examples = [_example(row, found) for row in table.rows]
    empty = next((example.place for example in examples if example.label == ""), None)
    if empty is not None and expected.labelled:
        raise UserError(f"{empty}: the label is empty; write a class, or - for an unlabelled row")
    examples = [replace(e, label=None) if is_no_label(e.label or None, classes) else e for e in examples]
    return Examples(Path(file), examples, found)


def _example(row: Row, columns: Columns) -> Example:
    text_b = None if columns.text_b is None else _text(row, columns.text_b)
    label = None if columns.label is None else row.cells.get(columns.label)
    if isinstance(label, list | dict):
        raise UserError(f"{row.place}: the label is {json.dumps(label)[:40]}, not a single class; write one per row")
    return Example(_text(row, columns.text_a), text_b, label_text(label), row.place)


def _text(row: Row, column: str) -> str:
    if column not in row.cells:
        raise UserError(f"{row.place}: {column!r} is missing, but other rows have it; add it")
    text: Any = row.cells[column]
    if isinstance(text, list) and text and all(isinstance(part, str) for part in text):
        text = " ".join(text)
    if not isinstance(text, str):
        raise UserError(f"{row.place}: {column!r} is {json.dumps(text)[:40]}, not a string; write texts as strings")
    return whole_characters(text)
