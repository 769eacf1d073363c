"""Splits paragraphs into sentences with ICU, by Unicode's rules for all scripts (UAX 29)."""

import re
from collections.abc import Sequence

from albert_fast.options import UserError

_LINE = re.compile("[^\n]*\n|[^\n]+")
_LOCALE = "en@ss=standard"  # with CLDR's list of English abbreviations, after which no sentence ends


def icu_version() -> str:
    """Version of ICU, whose rules change between versions.

    Raises:
        UserError: icu4py is not installed.
    """
    try:
        from icu4py import icu_version
    except ImportError:
        raise UserError("split_sentences needs the package icu4py; pip install 'albert-fast[corpora]'") from None
    return icu_version


def sentences(paragraphs: Sequence[str]) -> list[str]:
    """Sentences of paragraphs without \\n, each with its trailing blanks. Empty paragraphs are kept."""
    from icu4py.breakers import SentenceBreaker

    # A newline ends a sentence, so one pass suffices for all paragraphs; after an abbreviation ICU continues past it.
    pieces = (
        piece for found in SentenceBreaker("\n".join(paragraphs) + "\n", _LOCALE) for piece in _LINE.findall(found)
    )
    return [piece.removesuffix("\n") for piece in pieces]
