"""vocab.txt as it is published: one token a line, the line's number its id, whatever else stands there.

TensorFlow's and HuggingFace's readers take empty and repeated lines as they come, and weights were trained with the ids
that they gave; so no line is refused or dropped that would move the ids after it.
"""

import re

from albert_fast.data.characters import check_line_ends
from albert_fast.data.sentencepiece import MARKER
from albert_fast.options import UserError

_NUMBERED = re.compile(r"(.*?)[\t ]+(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)")


def read_vocab_txt(text: str) -> tuple[list[str], list[str]]:
    """The tokens in id order, "" where an id has none, and remarks on the lines that are unlike the others.

    Only \\n ends a line: U+2028 is a token of the Chinese vocabulary. Blanks around a token go, but not those that are
    tokens themselves (U+3000). A repeated token has the id of its last line. Empty lines at the end are none.

    Raises:
        UserError: the text is SentencePiece's .vocab, or one line.
    """
    check_line_ends(text, "it")
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    tokens, remarks = _numbered(lines)
    if any(line.removesuffix("\r") != stripped for line, stripped in zip(text.split("\n"), lines, strict=False)):
        remarks.append("blanks around tokens are left out")
    if empty := [index for index, token in enumerate(tokens) if not token]:
        remarks.append(f"line {_few(empty)} is empty, so that id {_few(empty, 0)} has no token")
    last = {token: index for index, token in enumerate(tokens)}
    repeated = [index for index, token in enumerate(tokens) if token and last[token] != index]
    for index in repeated[:3]:
        remarks.append(
            f"line {last[tokens[index]] + 1} repeats {tokens[index]!r} of line {index + 1}, and its id counts"
        )
    if len(repeated) > 3:
        remarks.append(f"{len(repeated) - 3} more tokens are repeated")
    return [token if last[token] == index else "" for index, token in enumerate(tokens)], remarks


def _numbered(lines: list[str]) -> tuple[list[str], list[str]]:
    """The tokens of lines that give each a number too: its id, or how often it occurs; else the lines."""
    if not lines or any(_NUMBERED.fullmatch(line) is None for line in lines if line):
        return lines, []
    pairs = [(match[1], match[2]) if (match := _NUMBERED.fullmatch(line)) else ("", "") for line in lines]
    numbers = [number for _, number in pairs if number]
    if any(token.startswith(MARKER) for token, _ in pairs) or not all(number.isdecimal() for number in numbers):
        raise UserError("it is SentencePiece's list of pieces (.vocab); give the .model that lies beside it")
    if sorted(map(int, numbers)) == list(range(len(lines))):
        placed = {int(number): token for token, number in pairs}
        return [placed[index] for index in range(len(lines))], ["every token stands with its id"]
    return [token for token, _ in pairs], ["every token stands with a number, which is not its id: the line counts"]


def _few(indices: list[int], first: int = 1) -> str:
    return ", ".join(str(index + first) for index in indices[:5]) + (", ..." if len(indices) > 5 else "")
