"""Files that hold no text are told by their first bytes."""

import bz2
import gzip
import lzma

import pytest

from albert_fast.data.foreign import foreign_kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (bz2.compress(b"a"), "compressed by bzip2"),
        (gzip.compress(b"a", mtime=0), "compressed by gzip"),
        (lzma.compress(b"a"), "compressed by xz"),
        ("a".encode("utf-16"), "UTF-16"),
        (b"a.txt".ljust(257, b"\0") + b"ustar", "a tar archive"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML>", "HTML"),
    ],
)
def test_kinds_are_told_by_how_they_begin(head, kind):
    found = foreign_kind(head, markup=True)
    assert found is not None
    assert found[0] == kind


@pytest.mark.parametrize("head", [b"", b"Plain text", "\ufeff今天".encode(), b"a <html>", b"par1,par2,label", b"BZH"])
def test_text_is_none_of_them(head):
    assert foreign_kind(head, markup=True) is None


def test_markup_may_be_text_to_read():
    assert foreign_kind(b"<html>a\tb") is None
