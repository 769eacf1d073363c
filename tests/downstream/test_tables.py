"""TSV, CSV, JSONL and JSON files are recognised by their content and read into rows."""

import json
from pathlib import Path

import pytest

from albert_fast.downstream.tables import read_table
from albert_fast.options import UserError


def cells(tmp_path: Path, content: str, name: str = "data.tsv") -> list[list[object]]:
    (tmp_path / name).write_bytes(content.encode())
    return [list(row.cells.values()) for row in read_table(tmp_path / name).rows]


def test_quotes_in_tsv_are_characters(tmp_path: Path) -> None:
    assert cells(tmp_path, 'he said "yes\t0\r\n\r\n"a"\t1') == [['he said "yes', "0"], ['"a"', "1"]]


@pytest.mark.parametrize("separator", [",", ";"])
def test_csv_by_its_suffix(tmp_path: Path, separator: str) -> None:
    """A quoted cell may contain the separator, a doubled quote and a line break."""
    content = f'0{separator}"well, good; ""yes""\nand more"\r\n\r\n1{separator}bad\r\n'
    assert cells(tmp_path, content, "data.csv") == [["0", 'well, good; "yes"\nand more'], ["1", "bad"]]
    assert [row.place.rpartition(", ")[2] for row in read_table(tmp_path / "data.csv").rows] == ["line 1", "line 4"]


def test_csv_by_known_column_names(tmp_path: Path) -> None:
    assert cells(tmp_path, 'label,review\n1,"a, b"\n', "data.txt") == [["label", "review"], ["1", "a, b"]]
    assert cells(tmp_path, "a text, with a comma\nanother\n", "data.txt") == [["a text, with a comma"], ["another"]]
    assert cells(tmp_path, "a, b\t1\n", "data.csv") == [["a, b", "1"]]


@pytest.mark.parametrize("indent", [None, 1], ids=["one-line", "pretty"])
def test_json_arrays(tmp_path: Path, indent: int | None) -> None:
    content = json.dumps([{"text": "a", "label": 1}, {"text": "b", "label": 0}], indent=indent)
    assert cells(tmp_path, content, "data.json") == [["a", 1], ["b", 0]]
    assert read_table(tmp_path / "data.json").rows[1].place.endswith("data.json, item 2")


def test_text_that_begins_with_a_bracket_is_text(tmp_path: Path) -> None:
    assert cells(tmp_path, "[MASK] is a mark\t1\n") == [["[MASK] is a mark", "1"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,1\nb\n", "line 2: 1 columns, but line 1 has 2; columns are separated by ','"),
        ("a.csv", 'a,1\n"b" c,2\n', "line 2: invalid CSV"),
        ("a.json", '[{"text": "a"}, ', "line 1: invalid JSON"),
        ("a.json", '[{"text": "a"}, 3]', "item 2: not a JSON object"),
        ("a.json", "[]", "empty JSON array"),
        (
            "a.json",
            '{"text": ["a", "b"], "label": [0, 1]}',
            "is one JSON object with text, label; write one object per row",
        ),
        ("a.json", '{"text": "a"}\n\n{"text": "b"', "line 3: invalid JSON"),
        ("a.tsv", "a\t1\rb\t0\r", r"old Mac line ends \(CR only\)"),
        ("a.xlsx", "PK\x03\x04", "is a zip archive, a spreadsheet or an office document; give a TSV"),
    ],
    ids=["columns", "quote", "cut", "number", "empty", "object", "cut-lines", "mac", "xlsx"],
)
def test_malformed_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "a", "label": 1}\n  \n\n  {"text": "b", "label": 0}\n \n',
        '{\n "text": "a",\n "label": 1\n}\n{\n "text": "b",\n "label": 0\n}',
        '{"version": "1.0", "data": [{"text": "a", "label": 1}, {"text": "b", "label": 0}]}',
        '\ufeff[{"text": "a", "label": 1},\r\n{"text": "b", "label": 0}]\r\n',
    ],
    ids=["blank-lines", "pretty-objects", "nested", "bom"],
)
def test_json_layouts(tmp_path: Path, content: str) -> None:
    assert cells(tmp_path, content, "data.json") == [["a", 1], ["b", 0]]


def test_one_object_is_a_row(tmp_path: Path) -> None:
    assert cells(tmp_path, '{"text": "a", "spans": [{"begin": 1}]}', "one.jsonl") == [["a", [{"begin": 1}]]]


def test_quotes_of_a_csv_writer_in_tsv(tmp_path: Path) -> None:
    """As pandas writes with sep="\\t": cells with a quote, a tab or a line break are quoted."""
    rows = [["text", "label"], ['says "x"', "1"], ["a\tb\nc", "0"], ["plain", "1"]]
    written = 'text\tlabel\n"says ""x"""\t1\n"a\tb\nc"\t0\nplain\t1\n'
    assert cells(tmp_path, written) == rows
    assert [row.place.rpartition(", ")[2] for row in read_table(tmp_path / "data.tsv").rows][-1] == "line 5"
    assert cells(tmp_path, '"text"\t"label"\n"a"\t"1"\n') == [["text", "label"], ["a", "1"]]


def test_unbalanced_quotes_do_not_join_lines(tmp_path: Path) -> None:
    assert cells(tmp_path, 'a\t"it rains\nb\tand snows"\n') == [["a", '"it rains'], ["b", 'and snows"']]


def test_empty_columns_and_trailing_cells_are_dropped(tmp_path: Path) -> None:
    """Doubled or trailing tabs; the other columns keep their numbers."""
    assert cells(tmp_path, "a\t\tb\t1\t\nc\t\td\t0\t\n") == [["a", "b", "1"], ["c", "d", "0"]]
    assert read_table(tmp_path / "data.tsv").columns == ["1", "3", "4"]
    assert cells(tmp_path, "text\tlabel\na\t1\t\n   \nb\t0\n") == [["text", "label"], ["a", "1"], ["b", "0"]]


def test_a_repeated_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.tsv").write_text("text\tlabel\na\t1\ntext\tlabel\nb\t0\n")
    with pytest.raises(UserError, match="line 3: the header is repeated"):
        read_table(tmp_path / "data.tsv").with_header()
    (tmp_path / "data.tsv").write_text("text\ttext\na\t1\n")
    with pytest.raises(UserError, match="duplicate column names 'text'"):
        read_table(tmp_path / "data.tsv").with_header()
