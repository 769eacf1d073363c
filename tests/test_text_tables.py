"""Markdown tables and rich tables."""

from albert_fast.text_tables import markdown_lines, number_table


def test_markdown_lines():
    rows = [("add", "1"), ("mm", "")]
    assert markdown_lines(("op", "ms"), "lr", rows) == ["| op | ms |", "| --- | ---: |", "| add | 1 |", "| mm |  |"]


def test_numbers_are_right_aligned():
    table = number_table("times", ("op", "kind", "ms"), text_columns=2)
    assert [(column.header, column.justify) for column in table.columns] == [
        ("op", "left"), ("kind", "left"), ("ms", "right"),
    ]  # fmt: skip
    assert table.title == "times"
