"""Character-level checks shared by all readers of text."""

from albert_fast.options import UserError


def whole_characters(text: str) -> str:
    """Replace lone surrogates, which JSON can contain but UTF-8 cannot, by U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def check_line_ends(text: str, whose: str) -> None:
    """Raise UserError if lines end in CR only, so that the text would be a single line; `whose` starts the message."""
    if "\r" in text and "\n" not in text:
        raise UserError(
            f"{whose} has old Mac line ends (CR only), so it is a single line; convert it with tr '\\r' '\\n'"
        )
