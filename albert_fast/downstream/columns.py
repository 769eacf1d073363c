"""Decides by a table's content which row is the header, and which columns are the texts and the label."""

import math
import re
import unicodedata
from dataclasses import dataclass

from albert_fast.downstream.column_names import KNOWN, LABELS, OTHERS, PAIRS, SINGLES
from albert_fast.downstream.labels import hold_classes, is_no_label, label_text
from albert_fast.downstream.tables import Table
from albert_fast.options import Options, UserError, option

FEW_ROWS = 4
_CODE = re.compile(r"[A-Za-z_.:/#-]*[0-9][A-Za-z0-9_.:/#-]*")  # what numbers a row: a number, train-12, gj04


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Options):
    """Where the texts and labels stand in the files (TSV or CSV, with or without a header, JSONL, or a JSON array)."""

    text_a: str | None = option(
        None, "column of the first text, its name or its number from 1 (found by name or place)"
    )
    text_b: str | None = option(None, "column of the second text, or none (found by name or place)")
    label: str | None = option(None, "column of the label, or none (found by name, content or place)")
    header: bool | None = option(None, "whether a first line names the columns (found out by names and content)")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What was found: a header's names (empty: no header; None: JSON) and the columns of the texts and the label."""

    header: list[str] | None
    text_a: str
    text_b: str | None
    label: str | None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a file should agree with: the classes of a model, single sentences or pairs, the columns it learnt from.

    None where it is not known. `labelled`: every file for training and development must have labels.
    """

    classes: list[str] | None = None
    pairs: bool | None = None
    columns: Columns | None = None
    labelled: bool = False


def find_columns(table: Table, asked: ColumnOptions, expected: Expected) -> tuple[Table, Columns]:
    """The table without its header, and the columns of its texts and label.

    Raises UserError, naming the columns that there are and the flag to give, where names and content do not decide.
    """
    if not table.named and (_has_header(table, asked, expected) if asked.header is None else asked.header):
        table = table.with_header()
    text_a, text_b, label = _by_name(table, asked, expected.columns)
    rest = [name for name in table.columns if name not in (text_a, text_b, label)]
    rest = [name for name in rest if not (table.named and name.lower() in OTHERS)]
    rest = _without_index(table, rest, expected)
    if label is None and asked.label is None and rest:
        label = _label_by_content(table, rest, text_a, expected)
    if table.ordered:
        rest = [name for name in rest if name != label]
        text_a, text_b = _texts_by_place(table, rest, text_a, text_b, asked, expected)
    there = _columns_there(table)
    if text_a is None:
        unlabelled = "" if label or asked.label or not expected.classes else " and, if there is no label, --label none"
        raise UserError(f"{table.file}: which column holds the text? It has {there}; name it with --text_a{unlabelled}")
    if label is None and expected.labelled:
        raise UserError(
            f"{table.file}: which column holds the label? It has {there}; {_about_score(table)}name it with --label"
        )
    if expected.pairs is not None and (text_b is not None) != expected.pairs:
        learnt, remedy = ("pairs", "--text_b") if expected.pairs else ("single sentences", "--text_b none")
        raise UserError(
            f"{table.file}: the classifier is for {learnt}, but found {'one text' if expected.pairs else 'two texts'} "
            f"({text_a}{f' and {text_b}' if text_b else ''}) among the columns {there}; give {remedy}"
        )
    header = None if not table.ordered else table.columns if table.named else []
    return table, Columns(header=header, text_a=text_a, text_b=text_b, label=label)


def _by_name(table: Table, asked: ColumnOptions, learnt: Columns | None) -> tuple[str | None, str | None, str | None]:
    """Columns asked for; else those of the same names that the model learnt from; else by names of known data sets."""
    text_a, text_b, label = (_asked(table, name, getattr(asked, name)) for name in ("text_a", "text_b", "label"))
    if not table.named:
        return text_a, text_b, label
    names = {name.lower(): name for name in reversed(table.columns)}
    if learnt is not None and learnt.text_a in table.columns and text_a is None:
        text_a, second = learnt.text_a, learnt.text_b
    else:
        pairs = [(names[a], names[b]) for a, b in PAIRS if a in names and b in names]
        if text_a is None:
            singles = [(names[name], None) for name in SINGLES if name in names]
            text_a, second = next(iter([*pairs, *singles]), (None, None))
        else:
            second = dict(reversed(pairs)).get(text_a)
    named = [names[name] for name in LABELS if name in names and names[name] not in (text_a, second)]
    third = learnt.label if learnt is not None and learnt.label in table.columns else next(iter(named), None)
    if asked.text_b is None and second in table.columns:
        text_b = second
    if asked.label is None and third in table.columns:
        label = third
    return text_a, text_b, label


def _without_index(table: Table, rest: list[str], expected: Expected) -> list[str]:
    """The columns but for those that number the rows (no two cells alike, all short codes), where enough are left.

    Enough are two, or the one text of a file without labels. In a file of a few rows a label may look like a number.
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
    """Of the columns that names leave open, the one that holds the classes, or the last where only texts can precede.

    The fields of a JSON object have no order, so there only the classes tell.
    """
    columns = {name: [label_text(cell) or "" for cell in table.column(name)] for name in rest}
    if expected.classes is not None:
        found = next((name for name in reversed(rest) if hold_classes(columns[name], expected.classes)), None)
        if found is not None or not expected.labelled:
            return found
    texts = (1, 2) if text_a is None else (0, 1) if expected.pairs else (0,)
    return rest[_label_place(list(columns.values()))] if table.ordered and len(rest) - 1 in texts else None


def _texts_by_place(
    table: Table, rest: list[str], text_a: str | None, text_b: str | None, asked: ColumnOptions, expected: Expected
) -> tuple[str | None, str | None]:
    """The texts that names leave open, in the order of the columns: at most two are left."""
    limit = 1 if text_b is not None or asked.text_b is not None or expected.pairs is False else 2
    if text_a is None and 1 <= len(rest) <= limit:
        return rest[0], rest[1] if len(rest) == 2 else text_b
    if text_a is not None and text_b is None and len(rest) == 1 and limit == 2 and expected.pairs:
        return text_a, rest[0]
    return text_a, text_b


def _has_header(table: Table, asked: ColumnOptions, expected: Expected) -> bool:
    """Whether the first row names the columns: by names that are known or asked for, or by what stands under them."""
    first, *rest = [[label_text(cell) or "" for cell in row.cells.values()] for row in table.rows]
    lower = {cell.lower() for cell in first}
    wanted = {name for name in (asked.text_a, asked.text_b, asked.label) if name and not name.isdigit()}
    learnt = set((expected.columns and expected.columns.header) or ())
    if wanted & set(first) or len(lower & KNOWN) >= 2 or lower <= {*SINGLES} or set(first) <= learnt:
        return True
    if len(first) < 2 or not rest or not all(map(_may_be_name, first)):
        return False
    under = [list(column) for column in zip(*rest, strict=True)]
    if any(not _is_number(name) and all(map(_is_number, column)) for name, column in zip(first, under, strict=True)):
        return True
    place = _label_place(under) if asked.label is None else int(asked.label) - 1 if asked.label.isdigit() else -1
    if not 0 <= place < len(first) or first[place] in under[place] or is_no_label(first[place], ()):
        return False
    if expected.classes is not None:
        return first[place] not in expected.classes and hold_classes(under[place], expected.classes)
    return first[place].lower() in LABELS or 2 * len(set(under[place])) <= len(rest)


def _asked(table: Table, option_name: str, asked: str | None) -> str | None:
    if asked is None or asked == "none":
        return None
    if asked not in table.rows[0].cells:
        raise UserError(f"{option_name}={asked}: {table.file} has no such column; it has {_columns_there(table)}")
    return asked


def _about_score(table: Table) -> str:
    """Of STS-B and its kin."""
    has_score = "score" in map(str.lower, table.columns)
    return "a score is measured, which is regression and not offered; " if has_score else ""


def _columns_there(table: Table) -> str:
    """The columns by name or, where they have none, with what stands in the first row."""
    if table.named:
        return ", ".join(table.columns)
    if len(table.columns) == 1:
        return "one column (tabs end one, and commas where the file's name ends in .csv)"
    first = " | ".join(str(cell)[:20] for cell in table.rows[0].cells.values())
    return f"{', '.join(table.columns)} (first row: {first})"


def _label_place(columns: list[list[str]]) -> int:
    """The last column or, where it never repeats itself as texts do and the first does, the first."""
    first, last = len(set(columns[0])), len(set(columns[-1]))
    return 0 if 2 * first <= len(columns[0]) and 2 * last > len(columns[0]) >= 4 else len(columns) - 1


def _may_be_name(cell: str) -> bool:
    """Whether a cell is short and no sentence."""
    ends_sentence = any(unicodedata.category(mark) == "Po" and mark not in "#/*&%@'\"" for mark in cell)
    return not _is_number(cell) and len(cell) <= 40 and len(cell.split()) <= 4 and not ends_sentence


def _is_number(cell: str) -> bool:
    try:
        return bool(cell) and math.isfinite(float(cell))
    except ValueError:
        return False
