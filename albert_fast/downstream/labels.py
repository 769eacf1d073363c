"""Label normalisation: spelling variants, placeholders for missing labels, and which labels can be classes."""

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from albert_fast.options import UserError, note

# XNLI's training file uses another name for one class than its development and test files.
_SAME = {"contradictory": "contradiction", "True": "true", "False": "false", "TRUE": "true", "FALSE": "false"}
_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+")
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def label_text(value: Any) -> str | None:
    """A label as its class name, stripped of whitespace and invisible characters; None for JSON's null and NaN.

    1.0 becomes 1 and True becomes true, because pandas and JSON write the same labels differently.
    """
    if value is None or value != value:
        return None
    text = (value if isinstance(value, str) else json.dumps(value)).strip("\ufeff\u200b \t\r\n\u3000\xa0")
    return _SAME.get(text, _WHOLE.sub(r"\1", text) if _WHOLE.fullmatch(text) else text)


def class_places(names: list[str]) -> dict[str, int]:
    """Index of each class by its name and, if the names are HuggingFace's LABEL_0, LABEL_1, ..., by its number."""
    numbers = {str(i): i for i in range(len(names))} if names == [f"LABEL_{i}" for i in range(len(names))] else {}
    return numbers | {label_text(name) or "": i for i, name in enumerate(names)}


def is_no_label(label: str | None, classes: Iterable[str]) -> bool:
    """Whether `label` is a placeholder for a missing label, rather than one of `classes`.

    SNLI and CLUE write `-` where annotators disagree; it is a class only beside +. Test files hide their labels behind
    several placeholders, which are recognised only if the model's classes are known and do not include them.
    """
    if label is None:
        return True
    if label in classes:
        return False
    return label == "-" or label.lower() in ("-1", "?", "hidden", "none", "null", "nan", "n/a", "unknown")


def hold_classes(labels: list[str], classes: list[str]) -> bool:
    """Whether most labelled cells of a column are classes; the others are reported later with their line."""
    return 2 * sum(label in classes for label in labels) > sum(not is_no_label(label, classes) for label in labels) > 0


def class_names(labels: list[str], where: str) -> list[str]:
    """The classes of a training file: in numeric order if all labels are integers, else sorted as text.

    Prints a note for suspicious class names. `where` (file and column) begins every message.

    Raises:
        UserError: the labels are too few or too many to be classes.
    """
    names = distinct(labels)
    if not names:
        raise UserError(f"{where}: no row has a label; set --label to the label column")
    if len(names) < 2:
        raise UserError(f"{where}: every label is {names[0]!r}; a classifier needs at least two classes")
    decimal = any("." in name for name in names) and all(_NUMBER.fullmatch(name) for name in names)
    if len(names) > (10 if decimal else max(20, len(labels) / 2)):
        raise UserError(
            f"{where}: {len(names):,} distinct labels in {len(labels):,} rows cannot be classes (regression is not "
            "supported); set --label to the label column"
        )
    doubtful = [name for name in names if name != "-1" and is_no_label(name, ())]
    if doubtful:
        note(f"{where}: {', '.join(doubtful)} is treated as a class; if it marks missing labels, remove those rows")
    normalized: dict[str, str] = {}
    for name in names:
        other = normalized.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            note(f"{where}: {other!r} and {name!r} are distinct classes; if they should be one, spell them alike")
    return names


def distinct(labels: Iterable[str]) -> list[str]:
    """The distinct labels, in the order of `class_names`."""
    names = set(labels)
    numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numeric else None)
