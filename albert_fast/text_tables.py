"""Text tables: Markdown lines, and rich tables with right-aligned numbers."""

from collections.abc import Iterable, Sequence

from rich.table import Table


def markdown_lines(head: Sequence[str], align: str, rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table; `align` has l or r per column."""
    rule = ["---:" if side == "r" else "---" for side in align]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def number_table(title: str, columns: Sequence[str], text_columns: int = 1) -> Table:
    """An empty table with `text_columns` left-aligned columns followed by right-aligned ones."""
    table = Table(title=title)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < text_columns else "right")
    return table
