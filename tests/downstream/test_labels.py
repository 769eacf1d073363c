"""Label normalisation, the order of classes, and notes on doubtful ones."""

import pytest

from albert_fast.downstream.labels import class_names, class_places, distinct, hold_classes, is_no_label, label_text
from albert_fast.options import UserError


def test_class_names_are_in_a_stable_order() -> None:
    assert class_names(["10", "2", "-1", "2"], "f") == ["-1", "2", "10"]
    assert class_names(["b", "a", "10"], "f") == ["10", "a", "b"]
    assert distinct(["②", "①", "--1"]) == ["--1", "①", "②"]  # int() would fail


def test_labels_as_text() -> None:
    """pandas writes 1.0 and True; XNLI's training file uses another name for one class."""
    values = (" 0\u3000", 3, True, None, "\ufeffx y ", "")
    assert [label_text(value) for value in values] == ["0", "3", "true", None, "x y", ""]
    assert [label_text(value) for value in (1, 1.0, "1.0", "-2.00", "1.5")] == ["1", "1", "1", "-2", "1.5"]
    assert [label_text(value) for value in ("True", "FALSE", True)] == ["true", "false", "true"]
    assert label_text("contradictory") == "contradiction"
    assert label_text(float("nan")) is None


def test_class_places_by_name_and_number() -> None:
    assert class_places(["0.0", "yes "]) == {"0": 0, "yes": 1}
    assert class_places(["LABEL_0", "LABEL_1"]) == {"0": 0, "1": 1, "LABEL_0": 0, "LABEL_1": 1}
    assert class_places(["LABEL_1", "LABEL_0"]) == {"LABEL_1": 0, "LABEL_0": 1}


def test_placeholders_for_missing_labels() -> None:
    assert is_no_label(None, [])
    assert is_no_label("-", ["a"])
    assert not is_no_label("-", ["-", "+"])
    assert is_no_label("-1", ["0", "1"])
    assert not is_no_label("neutral", ["0", "1"])


def test_most_cells_are_classes() -> None:
    assert hold_classes(["a", "b", "typo"], ["a", "b"])
    assert hold_classes(["a", "-", "-"], ["a", "b"])
    assert not hold_classes(["a", "x", "y"], ["a", "b"])
    assert not hold_classes(["-", "-"], ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "f: no row has a label"),
        (["a", "a"], "f: every label is 'a'; a classifier needs at least two"),
        ([str(i / 7) for i in range(30)], "f: 30 distinct labels in 30 rows cannot be classes"),
        ([f"{i % 26 / 5:.3f}" for i in range(300)], "f: 26 distinct labels in 300 rows cannot be classes"),
    ],
    ids=["none", "one", "regression", "scores"],
)
def test_what_cannot_be_classes_is_refused(labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_names(labels, "f")


def test_classes_that_look_alike_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    assert class_names(["Pos", "pos", "neg", "nan"], "f") == ["Pos", "nan", "neg", "pos"]
    notes = capsys.readouterr().err
    assert "'Pos' and 'pos' are distinct classes" in notes
    assert "nan is treated as a class" in notes
    class_names(["-1", "0", "1"], "f")
    assert capsys.readouterr().err == ""
