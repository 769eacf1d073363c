"""Labels as people write them: blanks around them, signs that there is none, and which of them can be classes."""

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from albert_fast.options import UserError, note

# XNLI's file for training calls one class otherwise than its files for development and testing do.
_SAME = {"contradictory": "contradiction", "True": "true", "False": "false", "TRUE": "true", "FALSE": "false"}
_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+")
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def label_text(value: Any) -> str | None:
    """A label as the name of its class, without blanks and invisible marks around it; None for JSON's null and NaN.

    1.0 is 1, and True is true: so do pandas and JSON write the same labels.
    """
    if value is None or value != value:
        return None
    text = (value if isinstance(value, str) else json.dumps(value)).strip("\ufeff\u200b \t\r\n\u3000\xa0")
    return _SAME.get(text, _WHOLE.sub(r"\1", text) if _WHOLE.fullmatch(text) else text)


def class_places(names: list[str]) -> dict[str, int]:
    """The place of each class by what files call it: its name or, of HuggingFace's LABEL_0 and so on, its number."""
    numbers = {str(i): i for i in range(len(names))} if names == [f"LABEL_{i}" for i in range(len(names))] else {}
    return numbers | {label_text(name) or "": i for i, name in enumerate(names)}


def is_no_label(label: str | None, classes: Iterable[str]) -> bool:
    """Whether `label` says that there is none.

    `-` is the sign of SNLI and CLUE for texts on which annotators disagree, unless + is a class. Hidden labels of test
    files have several signs; they count only where a model's classes are known and theirs are others.
    """
    if label is None:
        return True
    if label in classes:
        return False
    return label == "-" or label.lower() in ("-1", "?", "hidden", "none", "null", "nan", "n/a", "unknown")


def hold_classes(labels: list[str], classes: list[str]) -> bool:
    """Whether most of a column's cells are classes: what is none among them is refused later, with its line."""
    return 2 * sum(label in classes for label in labels) > sum(not is_no_label(label, classes) for label in labels) > 0


def class_names(labels: list[str], where: str) -> list[str]:
    """The classes of a training file's labels: in numeric order where all are whole numbers, else alphabetical.

    Raises UserError, naming `where`, if they are too few or too many to be classes; notes names spelt almost alike.
    """
    names = distinct(labels)
    if not names:
        raise UserError(f"{where}: no row has a label; give --label the column of the labels")
    if len(names) < 2:
        raise UserError(f"{where}: every label is {names[0]!r}; a classifier needs two classes or more")
    measured = any("." in name for name in names) and all(_NUMBER.fullmatch(name) for name in names)
    if len(names) > (10 if measured else max(20, len(labels) / 2)):
        raise UserError(
            f"{where}: {len(names):,} different labels in {len(labels):,} rows are no classes (regression is "
            "not offered); name the label's column with --label"
        )
    doubtful = [name for name in names if name != "-1" and is_no_label(name, ())]
    if doubtful:
        note(
            f"{where}: {', '.join(doubtful)} is learnt as a class; if it means that there is no label, remove its rows"
        )
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            note(f"{where}: {other!r} and {name!r} are two classes; if one is meant, spell them alike")
    return names


def distinct(labels: Iterable[str]) -> list[str]:
    """The labels without repetition, in the order of `class_names`."""
    names = set(labels)
    numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numeric else None)
