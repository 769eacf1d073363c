"""Recognises files that are not text by their first bytes, with a remedy for each."""

_UNPACK = "unpack it, or compress it with zstd or gzip"
_BINARY = {
    b"PK\x03\x04": ("a zip archive, a spreadsheet or an office document", "give the text in it"),
    b"BZh": ("compressed by bzip2", _UNPACK),
    b"\xfd7zXZ": ("compressed by xz", _UNPACK),
    b"\x1f\x8b": ("compressed by gzip", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"%PDF-": ("PDF", "give its text"),
    b"\x89PNG": ("a picture", "leave it out"),
    b"PAR1": ("Parquet", "give its text"),
    b"\xff\xfe": ("UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save it as UTF-8"),
}
_MARKUP = {
    b"<mediawiki": ("a dump of a wiki", "take the text out of it with WikiExtractor"),
    b"<!doctype html": ("HTML", "give its text"),
    b"<html": ("HTML", "give its text"),
}
_TAR = slice(257, 262)  # position of the magic number of a tar archive


def foreign_kind(head: bytes, markup: bool = False) -> tuple[str, str] | None:
    """(kind, remedy) of a file by its first bytes; None if it may be text. `markup`: recognise HTML etc. too."""
    if head[_TAR] == b"ustar":
        return "a tar archive", "unpack it"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for kinds, begin in ((_BINARY, start), (_MARKUP if markup else {}, start[:64].lower())):
        if kind := next((kind for mark, kind in kinds.items() if begin.startswith(mark)), None):
            return kind
    return None
