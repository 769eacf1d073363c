"""Detection of the header row and of text and label columns, on the layouts of published files."""

from dataclasses import replace
from pathlib import Path

import pytest

from albert_fast.downstream.columns import ColumnOptions, Columns, Expected, find_columns
from albert_fast.downstream.tables import read_table
from albert_fast.options import UserError

LABELLED = Expected(labelled=True)
SINGLE, PAIR = (Expected(classes=["0", "1"], pairs=pairs) for pairs in (False, True))


def detect(
    tmp_path: Path, content: str, expected: Expected = LABELLED, name: str = "x.tsv", **options: str | bool
) -> tuple[int, Columns]:
    (tmp_path / name).write_text(content)
    table, columns = find_columns(read_table(tmp_path / name), ColumnOptions(**options), expected)
    return len(table.rows), columns


def detected_columns(*arguments: object, **options: str) -> tuple[str, str | None, str | None]:
    columns = detect(*arguments, **options)[1]
    return columns.text_a, columns.text_b, columns.label


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("sentence label", "t 0", ("sentence", None, "label")),
        ("index sentence1 sentence2 label", "0 a b 1", ("sentence1", "sentence2", "label")),
        ("index question sentence label", "0 a b x", ("question", "sentence", "label")),
        ("id qid1 question1 question2 is_duplicate", "0 1 a b 0", ("question1", "question2", "is_duplicate")),
        ("Quality #1_ID #2_ID #1_String #2_String", "1 7 8 a b", ("#1 String", "#2 String", "Quality")),
        (
            "pairID genre sentence1 sentence2 label1 gold_label",
            "1e x a b y n",
            ("sentence1", "sentence2", "gold_label"),
        ),
        ("premise hypo label", "a b neutral", ("premise", "hypo", "label")),
        ("text_a text_b label", "a b 1", ("text_a", "text_b", "label")),
        ("label text_a", "1 a", ("text_a", None, "label")),
    ],
    ids=["sst", "rte", "qnli", "qqp", "mrpc", "mnli", "xnli", "lcqmc", "chnsenticorp"],
)
def test_headers_of_published_files(tmp_path: Path, header: str, row: str, expected: tuple[str, ...]) -> None:
    names, cells = ([name.replace("_S", " S").replace("_I", " I") for name in line.split()] for line in (header, row))
    lines = "\n".join("\t".join(part) for part in (names, cells, cells))
    assert detected_columns(tmp_path, lines) == expected
    unlabelled = SINGLE if expected[1] is None else PAIR
    kept = [i for i, name in enumerate(names) if name != expected[2]]
    lines = "\n".join("\t".join(part[i] for i in kept) for part in (names, cells, cells))
    assert detected_columns(tmp_path, lines, unlabelled) == (*expected[:2], None)


@pytest.mark.parametrize(
    "header", ["query\ttitle\tsimilar", "first\tsecond\trelation", "问题一\t问题二\t标签"], ids=["a", "b", "c"]
)
@pytest.mark.parametrize("labels", ["010110", ["entails", "not"] * 3], ids=["numbers", "words"])
def test_a_header_of_unknown_names_is_detected_from_the_labels(tmp_path: Path, header: str, labels: list[str]) -> None:
    content = header + "\n" + "".join(f"学生喜欢城市{i}\t老师想起医生{i}\t{label}\n" for i, label in enumerate(labels))
    assert detect(tmp_path, content) == (
        6,
        Columns(**dict(zip(("text_a", "text_b", "label"), header.split("\t"), strict=True)), header=header.split("\t")),
    )


def test_a_first_row_like_the_others_is_not_a_header(tmp_path: Path) -> None:
    """Its label occurs once like the others, is a number, is one of the model's classes or marks a missing label."""
    for content, expected in (
        ("good\tpos\nbad\tneg\n", LABELLED),
        ("a\t2\n" + "b\t0\nc\t1\n" * 4, LABELLED),
        ("a\tmaybe\n" + "b\tyes\nc\tno\n" * 3, Expected(classes=["maybe", "no", "yes"])),
        ("a\t-\n" + "b\tyes\nc\tno\n" * 3, LABELLED),
        ("The food was good, and cheap.\tgreat\n" + "b\tyes\nc\tno\n" * 3, LABELLED),
    ):
        rows, columns = detect(tmp_path, content, expected)
        assert (rows, columns) == (content.count("\n"), Columns(header=[], text_a="1", text_b=None, label="2"))


def test_the_flag_decides(tmp_path: Path) -> None:
    content = "first\tsecond\n" + "b\tyes\nc\tno\n" * 3
    assert detect(tmp_path, content)[0] == 6
    assert detect(tmp_path, content, header=False)[0] == 7
    assert detect(tmp_path, "a\t1\nb\t1\n", header=True) == (
        1,
        Columns(header=["a", "1"], text_a="a", text_b=None, label="1"),
    )


def test_unlabelled_files_without_a_header(tmp_path: Path) -> None:
    assert detect(tmp_path, "a\tb\nc\td\n", PAIR) == (2, Columns(header=[], text_a="1", text_b="2", label=None))
    assert detect(tmp_path, "a\nb\n", SINGLE) == (2, Columns(header=[], text_a="1", text_b=None, label=None))
    with pytest.raises(UserError, match=r"set --text_a \(and --label none if unlabelled\)"):
        detect(tmp_path, "7\ta\n8\tb\n", SINGLE)


@pytest.mark.parametrize("number", ["{}", "train-{}", "a1/{}"], ids=["number", "code", "path"])
@pytest.mark.parametrize("header", ["", "nr\tfirst\tsecond\tkind\n"], ids=["bare", "header"])
def test_an_index_column_is_not_a_text(tmp_path: Path, number: str, header: str) -> None:
    rows = [(number.format(7 * i), f"some text {i}", f"another {i}", str(i % 2)) for i in range(8)]
    content = header + "".join("\t".join(row) + "\n" for row in rows)
    expected = ("first", "second", "kind") if header else ("2", "3", "4")
    assert detected_columns(tmp_path, content) == expected
    bare = "".join(f"{row[0]}\t{row[1]}\t{row[3]}\n" for row in rows)
    assert detected_columns(tmp_path, bare) == ("2", None, "3")
    unlabelled = "".join(f"{row[0]}\t{row[1]}\t{row[2]}\n" for row in rows)
    assert detected_columns(tmp_path, unlabelled, PAIR) == ("2", "3", None)
    single = "".join(f"{row[0]}\t{row[1]}\n" for row in rows)
    assert detected_columns(tmp_path, single, SINGLE) == ("2", None, None)
    codes = "".join(f"{row[0]}\t{row[3]}\n" for row in rows)  # the texts themselves look like codes
    assert detected_columns(tmp_path, codes, SINGLE) == ("1", None, "2")


def test_a_score_is_not_a_label(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="regression on a score is not supported"):
        detect(tmp_path, "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.8\n")


def test_the_label_may_come_first(tmp_path: Path) -> None:
    content = "".join(f"{i % 2}\tsome text {i}\n" for i in range(8))
    assert detected_columns(tmp_path, content) == ("2", None, "1")
    assert detected_columns(tmp_path, content, SINGLE) == ("2", None, "1")


def test_pairs_or_single_sentences_must_match_the_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expects single sentences, but found two texts \(sentence1 and sentence2\)"):
        detect(tmp_path, "sentence1\tsentence2\na\tb\n", SINGLE)
    with pytest.raises(UserError, match=r"expects pairs, but found one text \(sentence\).*--text_b"):
        detect(tmp_path, "index\tsentence\n0\tb\n", PAIR)


def test_the_columns_of_training_come_first(tmp_path: Path) -> None:
    trained = Columns(header=["head", "body", "kind"], text_a="body", text_b=None, label="kind")
    expected = replace(SINGLE, columns=trained)
    assert detected_columns(tmp_path, "head\tbody\nx\ty\nz\tw\n", expected) == ("body", None, None)
    assert detected_columns(tmp_path, "kind\tbody\ttext\n1\ty\tz\n", expected) == ("body", None, "kind")
    assert detected_columns(tmp_path, "sentence\tlabel\nx\t1\n", expected) == ("sentence", None, "label")


def test_json_fields_by_name_and_by_classes(tmp_path: Path) -> None:
    rows = '{"id": 3, "verdict": 1, "sentence": "a"}\n{"id": 4, "verdict": 0, "sentence": "b"}\n'
    assert detected_columns(tmp_path, rows, SINGLE, "x.json") == ("sentence", None, "verdict")
    with pytest.raises(UserError, match=r"which column is the label.*id, verdict, sentence.*--label"):
        detect(tmp_path, rows, LABELLED, "x.json")
    assert detected_columns(tmp_path, rows, LABELLED, "x.json", label="verdict") == ("sentence", None, "verdict")


def test_many_columns_without_names_are_refused(tmp_path: Path) -> None:
    """CoLA: source, label, the author's star, sentence. By position, the text would be the four-letter source."""
    content = "gj04\t0\t*\tThe sailors rode.\ngj04\t1\t\tThey left.\n"
    with pytest.raises(UserError, match="which column is the text"):
        detect(tmp_path, content)
    assert detected_columns(tmp_path, content, text_a="4", label="2") == ("4", None, "2")
