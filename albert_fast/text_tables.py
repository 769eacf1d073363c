"""Tables as text: the lines of a Markdown table, and rich's table with its numbers to the right."""

from collections.abc import Iterable, Sequence

from rich.table import Table


def markdown_lines(head: Sequence[str], align: str, rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table; `align` has l or r for each column."""
    rule = ["---:" if side == "r" else "---" for side in align]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def number_table(title: str, columns: Sequence[str], words: int = 1) -> Table:
    """An empty table whose first columns hold words, and the others numbers."""
    table = Table(title=title)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < words else "right")
    return table
