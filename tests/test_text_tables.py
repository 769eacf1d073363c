"""Tables as text: a rule under the head, words to the left and numbers to the right."""

from albert_fast.text_tables import markdown_lines, number_table


def test_a_markdown_table_has_a_head_a_rule_and_a_line_for_each_row():
    rows = [("add", "1"), ("mm", "")]
    assert markdown_lines(("op", "ms"), "lr", rows) == ["| op | ms |", "| --- | ---: |", "| add | 1 |", "| mm |  |"]


def test_numbers_stand_to_the_right():
    table = number_table("times", ("op", "kind", "ms"), words=2)
    assert [(column.header, column.justify) for column in table.columns] == [
        ("op", "left"), ("kind", "left"), ("ms", "right"),
    ]  # fmt: skip
    assert table.title == "times"
