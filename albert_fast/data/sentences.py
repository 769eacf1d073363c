"""Paragraphs to sentences, by the rules of Unicode for every script (UAX 29), as the library ICU applies them."""

from __future__ import annotations

from albert_fast.options import UserError

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


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, each with the blanks after it: joined they are the paragraph."""
    from icu4py.breakers import SentenceBreaker

    return list(SentenceBreaker(paragraph, _LOCALE)) or [""]
