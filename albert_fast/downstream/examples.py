"""Reads labelled sentences and sentence pairs from TSV, CSV, JSONL and JSON files."""

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
    """One row: a sentence or a pair, its class as text (None: unlabelled), and where it stands for messages."""

    text_a: str
    text_b: str | None
    label: str | None
    place: str


@dataclass(frozen=True)
class Examples:
    """The rows of `file`, and the columns that they were taken from."""

    file: Path
    rows: list[Example]
    columns: Columns

    @property
    def pairs(self) -> bool:
        return self.columns.text_b is not None

    @property
    def labelled(self) -> list[Example]:
        """The rows that have a label."""
        return [example for example in self.rows if example.label is not None]

    def class_names(self) -> list[str]:
        """The classes of the labels; UserError where they cannot be classes."""
        where = f"{self.file}, column {self.columns.label}"
        return class_names([str(example.label) for example in self.labelled], where)

    def describe(self) -> None:
        """One line: what was taken as header, texts and label, how many classes, and how many rows have none."""
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
            if left_out := len(self.rows) - len(labelled):
                parts.append(f"left out of training and scores, without a class: {left_out:,}")
        note(f"{self.file}: {'; '.join(parts)}")


def read_examples(file: str | Path, columns: ColumnOptions | None = None, expected: Expected | None = None) -> Examples:
    """The rows of a TSV, CSV, JSONL or JSON file (see `read_table`), in the columns that `find_columns` finds.

    Labels lose the blanks around them; those that say that there is none (see `is_no_label`) become None. A text that
    is a list of strings, as CSL's keywords are, is those strings with blanks between them.

    Raises:
        UserError: naming file and line, for a missing file, broken UTF-8, a row that does not fit, no such column.
    """
    columns, expected = columns or ColumnOptions(), expected or Expected()
    table, found = find_columns(read_table(Path(file)), columns, expected)
    classes = set(expected.classes or ())
    if expected.classes is None and found.label is not None:
        # The classes are whatever stands there, but for `-` where it is no counterpart of +.
        labels = (label_text(row.cells.get(found.label)) for row in table.rows)
        classes = {label for label in labels if label is not None}
        classes -= set() if "+" in classes else {"-"}
    examples = [_example(row, found) for row in table.rows]
    empty = next((example.place for example in examples if example.label == ""), None)
    if empty is not None and expected.labelled:
        raise UserError(f"{empty}: the label is empty; give it one, or - for none")
    examples = [replace(e, label=None) if is_no_label(e.label or None, classes) else e for e in examples]
    return Examples(Path(file), examples, found)


def _example(row: Row, columns: Columns) -> Example:
    text_b = None if columns.text_b is None else _text(row, columns.text_b)
    label = None if columns.label is None else row.cells.get(columns.label)
    if isinstance(label, list | dict):
        raise UserError(f"{row.place}: the label is {json.dumps(label)[:40]}, but a row has one class")
    return Example(_text(row, columns.text_a), text_b, label_text(label), row.place)


def _text(row: Row, column: str) -> str:
    if column not in row.cells:
        raise UserError(f"{row.place}: no {column!r}, which other rows have")
    text: Any = row.cells[column]
    if isinstance(text, list) and text and all(isinstance(part, str) for part in text):
        text = " ".join(text)
    if not isinstance(text, str):
        raise UserError(f"{row.place}: a text is {json.dumps(text)[:40]}, not a string")
    return whole_characters(text)
