"""Reads Parquet and Arrow files as text: a row is a document, and each line of its strings a sentence."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from albert_fast.options import UserError

if TYPE_CHECKING:
    import pyarrow

_PARQUET, _ARROW = b"PAR1", b"ARROW1"
_SUFFIXES = (".parquet", ".arrow", ".feather")
_ROWS = 256  # rows per batch, which bounds the memory
_BUFFER_BYTES = 1 << 20


def is_table(path: str) -> bool:
    """Whether a file is Parquet or Arrow (an Arrow stream, as written by HuggingFace datasets, by its name)."""
    with open(path, "rb") as file:
        head = file.read(len(_ARROW))
    return head.startswith(_PARQUET) or head == _ARROW or path.endswith(_SUFFIXES)


def table_columns(path: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The text columns: `columns` after validation; if empty, "text" or the only column with text.

    Raises:
        UserError: a column is missing or does not hold text, or the choice is ambiguous.
    """
    with _opened(path) as table:
        texts = [field.name for field in table.schema if _holds_text(field.type)]
        names = table.schema.names
    found = f"found: {', '.join(names)}"[:300]
    for name in columns:
        if name not in names:
            raise UserError(f"input {path}: the table has no column {name!r} ({found}); name others with --columns")
        if name not in texts:
            raise UserError(f"input {path}: column {name!r} holds no text; those that do: {', '.join(texts) or 'none'}")
    if columns:
        return columns
    if "text" in texts or len(texts) == 1:
        return ("text",) if "text" in texts else (texts[0],)
    if not texts:
        raise UserError(f"input {path}: no column holds text ({found}); write it as strings")
    raise UserError(f"input {path}: which columns hold the text? ({found}); name them with --columns")


def table_groups(path: str) -> int:
    """Number of row groups (Parquet) or record batches (Arrow) of a table."""
    with _opened(path) as table:
        return table.num_groups


def open_table(path: str, columns: tuple[str, ...], groups: tuple[int, int]) -> io.BufferedReader:
    """Text of row groups first..last (last excluded): for each row its non-blank lines, then a blank line."""
    return io.BufferedReader(_TableText(path, columns, groups), _BUFFER_BYTES)


class _TableText(io.RawIOBase):
    """Stream of a table's text, generated row by row."""

    def __init__(self, path: str, columns: tuple[str, ...], groups: tuple[int, int]):
        self._documents = _documents(path, columns, groups)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            document = next(self._documents, None)
            if document is None:
                return 0
            self._rest = memoryview(document)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._documents.close()
        super().close()


def _documents(path: str, columns: tuple[str, ...], groups: tuple[int, int]) -> Generator[bytes]:
    with _opened(path) as table:
        for batch in table.batches(list(columns), *groups):
            for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                texts = (text for value in row for text in (value if isinstance(value, list) else [value]) if text)
                lines = [line.removesuffix("\r") for text in texts for line in text.split("\n") if line.strip()]
                if lines:
                    yield ("\n".join(lines) + "\n\n").encode("utf-8")


def _holds_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        return _holds_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


@contextmanager
def _opened(path: str) -> Iterator[_Parquet | _Arrow]:
    """Open a table; errors of pyarrow become UserErrors with the file name."""
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"input {path}: tables need the package pyarrow; pip install 'albert-fast[corpora]'") from None
    try:
        with open(path, "rb") as file:
            is_parquet = file.read(len(_PARQUET)) == _PARQUET
        with pyarrow.memory_map(path) as file:
            yield _Parquet(file) if is_parquet else _Arrow(file)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"input {path}: damaged, or not a Parquet or Arrow file ({str(error)[:200]})") from None


class _Parquet:
    def __init__(self, file: pyarrow.NativeFile):
        from pyarrow import parquet

        # Buffered, so that column chunks are read page by page.
        self._file = parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES)
        self.schema = self._file.schema_arrow
        self.num_groups: int = self._file.num_row_groups

    def batches(self, columns: list[str], first: int, last: int) -> Iterator[pyarrow.RecordBatch]:
        groups = list(range(first, last))
        return self._file.iter_batches(_ROWS, row_groups=groups, columns=columns, use_threads=False)


class _Arrow:
    """An Arrow file or stream (as written by HuggingFace datasets), memory-mapped; skipped batches are never read."""

    def __init__(self, file: pyarrow.NativeFile):
        from pyarrow import ipc

        magic = file.read(len(_ARROW))
        file.seek(0)
        self._reader = ipc.open_file(file) if magic == _ARROW else ipc.open_stream(file)
        self.schema = self._reader.schema

    @property
    def num_groups(self) -> int:
        if hasattr(self._reader, "num_record_batches"):
            return self._reader.num_record_batches
        return sum(1 for _ in self._reader)

    def batches(self, columns: list[str], first: int, last: int) -> Iterator[pyarrow.RecordBatch]:
        if hasattr(self._reader, "num_record_batches"):
            found = (self._reader.get_batch(index) for index in range(first, last))
        else:
            found = (batch for index, batch in enumerate(self._reader) if first <= index < last)
        for batch in found:
            for begin in range(0, batch.num_rows, _ROWS):
                yield batch.select(columns).slice(begin, _ROWS)
