"""Paragraphs to sentences, by the rules of Unicode for every script (UAX 29), as the library ICU applies them."""

import re
from collections.abc import Sequence

from albert_fast.options import UserError

_LINE = re.compile("[^\n]*\n|[^\n]+")
_LOCALE = "en@ss=standard"  # with CLDR's list of English abbreviations, which end no sentence


def icu_version() -> str:
    """The version of ICU, whose rules change now and then.

    Raises:
        UserError: icu4py is not installed.
    """
    try:
        from icu4py import icu_version
    except ImportError:
        raise UserError("split_sentences needs the package icu4py; pip install 'albert-fast[corpora]'") from None
    return icu_version


def sentences(paragraphs: Sequence[str]) -> list[str]:
    """The sentences of paragraphs, which hold no \\n, each with the blanks after it. An empty paragraph stays."""
    from icu4py.breakers import SentenceBreaker

    # A line's end ends a sentence, so one pass serves them all; after an abbreviation ICU goes on over it.
    pieces = (
        piece for found in SentenceBreaker("\n".join(paragraphs) + "\n", _LOCALE) for piece in _LINE.findall(found)
    )
    return [piece.removesuffix("\n") for piece in pieces]
