"""Reads vocab.txt as published: one token per line, whose id is the line number, with irregular lines kept.

TensorFlow's and HuggingFace's readers accept empty and repeated lines, and weights were trained with the resulting ids,
so no line may be rejected or dropped if that would shift later ids.
"""

import re

from albert_fast.data.characters import check_line_ends
from albert_fast.data.sentencepiece import MARKER
from albert_fast.options import UserError

_NUMBERED = re.compile(r"(.*?)[\t ]+(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)")


def read_vocab_txt(text: str) -> tuple[list[str], list[str]]:
    """Tokens in id order ("" for ids without a token), and remarks on irregular lines.

    Only \\n ends a line: U+2028 is a token of the Chinese vocabulary. Blanks around a token are stripped, unless they
    are tokens themselves (U+3000). A repeated token gets the id of its last line. Trailing empty lines are ignored.

    Raises:
        UserError: the text is a SentencePiece .vocab file, or a single line.
    """
    check_line_ends(text, "it")
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    tokens, remarks = _numbered(lines)
    if any(line.removesuffix("\r") != stripped for line, stripped in zip(text.split("\n"), lines, strict=False)):
        remarks.append("blanks around tokens are stripped")
    if empty := [index for index, token in enumerate(tokens) if not token]:
        remarks.append(f"line {_few(empty)} is empty, so id {_few(empty, 0)} has no token")
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
    """Strip the number (an id or a count) that follows the token in every line, if there is one."""
    if not lines or any(_NUMBERED.fullmatch(line) is None for line in lines if line):
        return lines, []
    pairs = [(match[1], match[2]) if (match := _NUMBERED.fullmatch(line)) else ("", "") for line in lines]
    numbers = [number for _, number in pairs if number]
    if any(token.startswith(MARKER) for token, _ in pairs) or not all(number.isdecimal() for number in numbers):
        raise UserError("this is a SentencePiece .vocab file; give the .model file next to it")
    if sorted(map(int, numbers)) == list(range(len(lines))):
        placed = {int(number): token for token, number in pairs}
        return [placed[index] for index in range(len(lines))], ["every line has a token and its id"]
    return [token for token, _ in pairs], [
        "every line has a token and a number that is not its id; the line number is used"
    ]


def _few(indices: list[int], first: int = 1) -> str:
    return ", ".join(str(index + first) for index in indices[:5]) + (", ..." if len(indices) > 5 else "")
