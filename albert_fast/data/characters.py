"""Rules on characters that every reader of text shares."""

from albert_fast.options import UserError


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each half of a character (a lone surrogate), which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def check_line_ends(text: str, whose: str) -> None:
    """UserError where lines end in CR alone: all of the text would be one line. `whose` begins the message."""
    if "\r" in text and "\n" not in text:
        raise UserError(f"{whose} has old Mac line ends (CR alone), so it is one line; tr '\\r' '\\n' mends it")
