"""Labelled files as found in practice are read into examples or refused with their line."""

from pathlib import Path

import pytest

from albert_fast.downstream.columns import ColumnOptions, Expected
from albert_fast.downstream.examples import Examples, read_examples
from albert_fast.options import UserError

SINGLE = Expected(classes=["0", "1"], pairs=False)
PAIR = [("今天天气好吗", "天气怎么样", "1"), ('他说"你好', "再见", "0")]


def write(tmp_path: Path, content: str | bytes, name: str = "data.tsv") -> Path:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def rows(examples: Examples) -> list[tuple[str, str | None, str | None]]:
    return [(example.text_a, example.text_b, example.label) for example in examples.rows]


@pytest.mark.parametrize("header", ["", "text_a\ttext_b\tlabel\n", "sentence1\tsentence2\tgold_label\n"], ids=repr)
def test_lcqmc_with_and_without_a_header(tmp_path: Path, header: str) -> None:
    """Quotes are literal: a naive csv reader would join the second line with all that follow."""
    body = "".join("\t".join(row) + "\n" for row in PAIR)
    assert rows(read_examples(write(tmp_path, header + body))) == PAIR


def test_line_ends_marks_and_strange_characters(tmp_path: Path) -> None:
    content = "\ufefftext_a\ttext_b\tlabel\r\na\u2028b\tc\x85\t1\r\n\r\nd\t\t0"
    examples = read_examples(write(tmp_path, content))
    assert rows(examples) == [("a\u2028b", "c\x85", "1"), ("d", "", "0")]
    assert examples.rows[1].place.endswith("data.tsv, line 4")


def test_single_sentences(tmp_path: Path) -> None:
    labelled, bare = write(tmp_path, "good\tpos\nbad\tneg\n"), write(tmp_path, "only text\nmore\n", "bare.tsv")
    assert rows(read_examples(labelled)) == [("good", None, "pos"), ("bad", None, "neg")]
    assert rows(read_examples(bare)) == [("only text", None, None), ("more", None, None)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text_a": "q", "text_b": "none", "label": "y"}, [("a", None, "1")]),
        ({"text_a": "3", "text_b": "2", "label": "4"}, [("b", "a", "1")]),
        ({"text_a": "q", "text_b": "r", "label": "none"}, [("a", "b", None)]),
    ],
    ids=["names", "numbers", "unlabelled"],
)
def test_columns_by_name_and_number(tmp_path: Path, columns: dict[str, str], expected: list[tuple]) -> None:
    file = write(tmp_path, "id\tq\tr\ty\n7\ta\tb\t1\n")
    assert rows(read_examples(file, ColumnOptions(header=True, **columns))) == expected


def test_jsonl(tmp_path: Path) -> None:
    content = '{"sentence": "a\\tb", "label": 3}\n\n{"label": true, "sentence": "c", "more": null}\n'
    assert rows(read_examples(write(tmp_path, content, "x.jsonl"))) == [("a\tb", None, "3"), ("c", None, "true")]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (b"", {}, "is empty"),
        (b"text_a\tlabel\n", {}, "header but no rows"),
        (b"a\t1\nb\t\n", {}, "line 2: the label is empty"),
        (b"a\t1\n\xff\t0\n", {}, "line 2: not UTF-8 at byte 0"),
        (b"a\t1\n", {"label": "5"}, "label=5: .* no such column; use one of 1, 2"),
        (b"text\tlabel\na\t1\n", {"text_b": "pair"}, "text_b=pair: .* use one of text, label"),
        (b'{"text": "a", "label": 1}\n{"label": 0}\n', {}, "line 2: 'text' is missing, but other rows have it"),
        (b'{"text": "a", "label": [0, 1]}\n', {}, r"line 1: the label is \[0, 1\], not a single class"),
        (b"gj04\t1\t*\tThey left.\n", {}, r"Columns: 1, 2, 3, 4 \(first row: gj04 \| 1 \| \* \| They left.\)"),
        (b"just one text\n", {}, r"label\? Columns: only one \(separate columns by tabs"),
        (b'{"text": 5, "label": 1}\n', {}, "line 1: 'text' is 5, not a string"),
        (b'{"x": "a"}\n', {}, "which column is the text"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_bad_files_are_refused_with_their_line(
    tmp_path: Path, content: bytes, columns: dict[str, str], message: str
) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_examples(file, ColumnOptions(**columns), Expected(labelled=True))
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_values_only_json_can_hold(tmp_path: Path) -> None:
    """CSL's list of keywords, a row without a label, NaN as written by pandas, and half a surrogate pair."""
    content = (
        '{"keyword": ["水", "质"], "abst": "a", "label": "1"}\n{"keyword": ["x"], "abst": "b\\ud83d"}\n'
        '{"keyword": ["y"], "abst": "c", "label": NaN}\n{"keyword": ["z"], "abst": "d", "label": 0.0}\n'
    )
    expected = [("水 质", "a", "1"), ("x", "b???", None), ("y", "c", None), ("z", "d", "0")]
    found = rows(read_examples(write(tmp_path, content, "x.json"), None, Expected(labelled=True)))
    assert [(a, b.replace("\ufffd", "?"), label) for a, b, label in found] == expected


def test_labels_are_stripped_and_missing_ones_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, "a\tb\t0 \nc\td\t1\ne\tf\t0\ng\th\t-\ni\tj\t\u30001\n")
    examples = read_examples(file, None, Expected(labelled=True))
    assert [example.label for example in examples.rows] == ["0", "1", "0", None, "1"]
    assert examples.class_names() == ["0", "1"]
    examples.describe()
    expected = "5 rows; no header; text 1 with 2; label 3, 2 classes: 0, 1; unlabelled rows, not used"
    assert capsys.readouterr().err == f"note: {file}: {expected} for training or scores: 1\n"


def test_a_minus_beside_a_plus_is_a_class(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path, "a\t+\nb\t-\nc\t+\nd\t-\n"))
    assert examples.class_names() == ["+", "-"]


def test_empty_and_hidden_labels_of_a_test_file(tmp_path: Path) -> None:
    empty = write(tmp_path, "text\tlabel\na\t\nb\t\n")
    file = write(tmp_path, '{"sentence": "a", "label": -1}\n{"sentence": "b", "label": null}\n', "test.jsonl")
    for unlabelled in (empty, file):
        assert rows(read_examples(unlabelled, None, SINGLE)) == [("a", None, None), ("b", None, None)]
    assert rows(read_examples(file, None, Expected(classes=["-1", "1"])))[0] == ("a", None, "-1")
