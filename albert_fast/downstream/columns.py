"""Detects a table's header row and its text and label columns, from column names and content."""

import math
import re
import unicodedata
from dataclasses import dataclass

from albert_fast.downstream.column_names import KNOWN, LABELS, OTHERS, PAIRS, SINGLES
from albert_fast.downstream.labels import hold_classes, is_no_label, label_text
from albert_fast.downstream.tables import Table
from albert_fast.options import Options, UserError, option

FEW_ROWS = 4
_CODE = re.compile(r"[A-Za-z_.:/#-]*[0-9][A-Za-z0-9_.:/#-]*")  # a row identifier: 7, train-12, gj04


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Options):
    """Which columns of the files (TSV, CSV, JSONL or JSON array) hold the texts and the label."""

    text_a: str | None = option(None, "column of the first text: name, or number from 1 (detected)")
    text_b: str | None = option(None, "column of the second text: name, number or none (detected)")
    label: str | None = option(None, "column of the label: name, number or none (detected)")
    header: bool | None = option(None, "whether the first row is a header row (detected)")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Detected columns. `header` holds the names of the header row (empty: no header row; None: JSON)."""

    header: list[str] | None
    text_a: str
    text_b: str | None
    label: str | None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a file should contain: a model's classes, pairs or single sentences, its training columns (None: unknown).

    labelled: the file must have a label column, as for training and development.
    """

    classes: list[str] | None = None
    pairs: bool | None = None
    columns: Columns | None = None
    labelled: bool = False


def find_columns(table: Table, options: ColumnOptions, expected: Expected) -> tuple[Table, Columns]:
    """Return the table without its header row, and its text and label columns.

    Raises:
        UserError: names and content are ambiguous; the message lists the available columns and the flag to set.
    """
    if not table.named and (_has_header(table, options, expected) if options.header is None else options.header):
        table = table.with_header()
    text_a, text_b, label = _by_name(table, options, expected.columns)
    rest = [name for name in table.columns if name not in (text_a, text_b, label)]
    rest = [name for name in rest if not (table.named and name.lower() in OTHERS)]
    rest = _without_index(table, rest, expected)
    if label is None and options.label is None and rest:
        label = _label_by_content(table, rest, text_a, expected)
    if table.ordered:
        rest = [name for name in rest if name != label]
        text_a, text_b = _texts_by_position(table, rest, text_a, text_b, options, expected)
    available = _available(table)
    if text_a is None:
        unlabelled = "" if label or options.label or not expected.classes else " (and --label none if unlabelled)"
        raise UserError(f"{table.file}: which column is the text? Columns: {available}; set --text_a{unlabelled}")
    if label is None and expected.labelled:
        regression = "score" in map(str.lower, table.columns)  # as in STS-B
        hint = "regression on a score is not supported; " if regression else ""
        raise UserError(f"{table.file}: which column is the label? Columns: {available}; {hint}set --label")
    if expected.pairs is not None and (text_b is not None) != expected.pairs:
        columns = f"one text ({text_a})" if expected.pairs else f"two texts ({text_a} and {text_b})"
        raise UserError(
            f"{table.file}: the classifier expects {'pairs' if expected.pairs else 'single sentences'}, but found "
            f"{columns} among the columns {available}; set --text_b{'' if expected.pairs else ' none'}"
        )
    header = None if not table.ordered else table.columns if table.named else []
    return table, Columns(header=header, text_a=text_a, text_b=text_b, label=label)


def _by_name(
    table: Table, options: ColumnOptions, trained: Columns | None
) -> tuple[str | None, str | None, str | None]:
    """(text_a, text_b, label) as given by flags, else by the names seen in training, else by well-known names."""
    text_a, text_b, label = (_given(table, name, getattr(options, name)) for name in ("text_a", "text_b", "label"))
    if not table.named:
        return text_a, text_b, label
    names = {name.lower(): name for name in reversed(table.columns)}
    if trained is not None and trained.text_a in table.columns and text_a is None:
        text_a, second = trained.text_a, trained.text_b
    else:
        pairs = [(names[a], names[b]) for a, b in PAIRS if a in names and b in names]
        if text_a is None:
            singles = [(names[name], None) for name in SINGLES if name in names]
            text_a, second = next(iter([*pairs, *singles]), (None, None))
        else:
            second = dict(reversed(pairs)).get(text_a)
    named = [names[name] for name in LABELS if name in names and names[name] not in (text_a, second)]
    third = trained.label if trained is not None and trained.label in table.columns else next(iter(named), None)
    if options.text_b is None and second in table.columns:
        text_b = second
    if options.label is None and third in table.columns:
        label = third
    return text_a, text_b, label


def _without_index(table: Table, rest: list[str], expected: Expected) -> list[str]:
    """Drop row-identifier columns (all cells distinct short codes) if enough columns remain.

    Enough means two, or the only text of an unlabelled file. With very few rows, a label column can look like an index.
    """
    if not table.ordered or len(table.rows) < FEW_ROWS:
        return rest
    left = [name for name in rest if not _is_index(table.column(name))]
    one_text = expected.pairs is False and not expected.labelled and len(left) == 1
    if one_text and not hold_classes(
        [label_text(cell) or "" for cell in table.column(left[0])], expected.classes or []
    ):
        return left
    return left if len(left) >= 2 else rest


def _is_index(cells: list[str]) -> bool:
    return len(set(cells)) == len(cells) and all(map(_CODE.fullmatch, cells))


def _label_by_content(table: Table, rest: list[str], text_a: str | None, expected: Expected) -> str | None:
    """Of the unassigned columns, the one that holds the classes, or else the last if all others can be texts.

    JSON fields are unordered, so there only the classes identify the label.
    """
    columns = {name: [label_text(cell) or "" for cell in table.column(name)] for name in rest}
    if expected.classes is not None:
        found = next((name for name in reversed(rest) if hold_classes(columns[name], expected.classes)), None)
        if found is not None or not expected.labelled:
            return found
    texts = (1, 2) if text_a is None else (0, 1) if expected.pairs else (0,)
    return rest[_label_position(list(columns.values()))] if table.ordered and len(rest) - 1 in texts else None


def _texts_by_position(
    table: Table, rest: list[str], text_a: str | None, text_b: str | None, options: ColumnOptions, expected: Expected
) -> tuple[str | None, str | None]:
    """Assign the remaining columns (at most two) to the texts not identified by name, in column order."""
    limit = 1 if text_b is not None or options.text_b is not None or expected.pairs is False else 2
    if text_a is None and 1 <= len(rest) <= limit:
        return rest[0], rest[1] if len(rest) == 2 else text_b
    if text_a is not None and text_b is None and len(rest) == 1 and limit == 2 and expected.pairs:
        return text_a, rest[0]
    return text_a, text_b


def _has_header(table: Table, options: ColumnOptions, expected: Expected) -> bool:
    """Whether the first row is a header: it holds known or requested names, or differs in kind from the rows below."""
    first, *rest = [[label_text(cell) or "" for cell in row.cells.values()] for row in table.rows]
    lower = {cell.lower() for cell in first}
    given = {name for name in (options.text_a, options.text_b, options.label) if name and not name.isdigit()}
    trained = set((expected.columns and expected.columns.header) or ())
    if given & set(first) or len(lower & KNOWN) >= 2 or lower <= {*SINGLES} or set(first) <= trained:
        return True
    if len(first) < 2 or not rest or not all(map(_may_be_name, first)):
        return False
    below = [list(column) for column in zip(*rest, strict=True)]
    if any(not _is_number(name) and all(map(_is_number, column)) for name, column in zip(first, below, strict=True)):
        return True
    label = options.label
    i = _label_position(below) if label is None else int(label) - 1 if label.isdigit() else -1
    if not 0 <= i < len(first) or first[i] in below[i] or is_no_label(first[i], ()):
        return False
    if expected.classes is not None:
        return first[i] not in expected.classes and hold_classes(below[i], expected.classes)
    return first[i].lower() in LABELS or 2 * len(set(below[i])) <= len(rest)


def _given(table: Table, option_name: str, column: str | None) -> str | None:
    """The column given by a flag (None: not given, or "none"); UserError if the table lacks it."""
    if column is None or column == "none":
        return None
    if column not in table.rows[0].cells:
        raise UserError(f"{option_name}={column}: {table.file} has no such column; use one of {_available(table)}")
    return column


def _available(table: Table) -> str:
    """The column names for error messages, or the column numbers and the first row if there are no names."""
    if table.named:
        return ", ".join(table.columns)
    if len(table.columns) == 1:
        return "only one (separate columns by tabs, or by commas in a .csv file)"
    first = " | ".join(str(cell)[:20] for cell in table.rows[0].cells.values())
    return f"{', '.join(table.columns)} (first row: {first})"


def _label_position(columns: list[list[str]]) -> int:
    """The last column, or the first if only the first has repeated values (texts rarely repeat)."""
    first, last = len(set(columns[0])), len(set(columns[-1]))
    return 0 if 2 * first <= len(columns[0]) and 2 * last > len(columns[0]) >= 4 else len(columns) - 1


def _may_be_name(cell: str) -> bool:
    """Whether a cell could be a column name: short, not a number and not a sentence."""
    ends_sentence = any(unicodedata.category(mark) == "Po" and mark not in "#/*&%@'\"" for mark in cell)
    return not _is_number(cell) and len(cell) <= 40 and len(cell.split()) <= 4 and not ends_sentence


def _is_number(cell: str) -> bool:
    try:
        return bool(cell) and math.isfinite(float(cell))
    except ValueError:
        return False
