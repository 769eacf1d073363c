"""Input files of `prepare`: detects their format by content and opens their text as a byte stream."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import shutil
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal, cast

from albert_fast.data.columnar import is_table, open_table, table_columns, table_groups
from albert_fast.data.foreign import foreign_kind
from albert_fast.data.zstd_frames import MAGIC, Frame, find_frames
from albert_fast.files import writing
from albert_fast.options import UserError, note

Layout = Literal["lines", "json", "docs"]
# A document boundary in WikiExtractor's output.
DOC_EDGE = re.compile(r"\s*(?:<doc(?:\s.*)?>|</doc>)\s*")
_HEAD_BYTES = 1 << 16
_SKIP_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
# Files next to a corpus that are not part of it, as in data sets of the HuggingFace hub.
_NO_CORPUS = re.compile(r"(?i)(readme|licen[cs]e|notice|changelog)(\.\w+)?|dataset_infos?\.json")
_OBJECT = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:')
_ARRAY = re.compile(r'\[\s*(?:\{\s*"|\[\s*["\[{]|"(?:[^"\\]|\\.)*"\s*[,\]])')


@dataclass(frozen=True)
class InputFile:
    """An input file and the layout of its text.

    Attributes:
        layout: lines (one sentence per line, a blank line between documents), json (one object, a document, per line)
            or docs (documents between lines `<doc ...>` and `</doc>`, where blank lines have no meaning).
        columns: for a table (Parquet or Arrow), the columns with text; a row is a document.
        groups: for a table, the row groups (Arrow: record batches) first..last to read, last excluded.
        frames: for a .zst file, its frames; empty if it can only be read from the beginning.
        text_bytes: for a seekable file, the bytes of its uncompressed text.
    """

    path: str
    layout: Layout = "lines"
    columns: tuple[str, ...] = ()
    groups: tuple[int, int] = (0, 0)
    frames: tuple[Frame, ...] = field(init=False, default=())
    text_bytes: int = field(init=False, default=0)
    _compression: str | None = field(init=False)

    def __post_init__(self) -> None:
        compression = None if self.columns else _compression(self.path)
        frames: tuple[Frame, ...] = ()
        text_bytes = file_bytes(self.path)
        if compression == "zstd":
            with open(self.path, "rb") as file:
                frames, text_bytes = find_frames(file)
        for name, value in (("frames", frames), ("text_bytes", text_bytes), ("_compression", compression)):
            object.__setattr__(self, name, value)

    @property
    def is_seekable(self) -> bool:
        """Whether it can be read from any byte; tables and most compressed files cannot."""
        return not self.columns and (self._compression is None or len(self.frames) > 1)

    def open(self, offset: int = 0) -> BinaryIO:
        """The file's text from byte `offset` on; failures name the file."""
        try:
            if self.columns:
                return _skipped(open_table(self.path, self.columns, self.groups), offset)
            if self._compression is not None:
                frame = next((frame for frame in reversed(self.frames) if frame.text_offset <= offset), Frame(0, 0))
                file = cast(BinaryIO, _Decompressed(self.path, self._compression, frame.offset))
                return _skipped(file, offset - frame.text_offset)
            file = open(self.path, "rb")  # noqa: SIM115
            file.seek(offset)
            return file
        except OSError as error:
            raise UserError(f"input {self.path}: {error.strerror or error}") from None


def input_files(
    paths: tuple[str, ...], json_field: str | None = None, columns: tuple[str, ...] = ()
) -> tuple[InputFile, ...]:
    """The files of prepare's --input, each with the layout that its first lines show.

    Raises:
        UserError: no such file or no regular one; JSON without json_field, or a JSON array; a table without the
            columns, or columns without a table.
    """
    files = tuple(_input_file(path, json_field, columns) for path in paths)
    if columns and not any(file.columns for file in files):
        raise UserError(f"columns={','.join(columns)} are of a table, and no input is Parquet or Arrow; leave them out")
    return files


def expand(paths: tuple[str, ...], output: Path) -> tuple[str, ...]:
    """The paths, folders replaced by the files in them but for hidden ones, in order of their names.

    A folder that HuggingFace's datasets saved stands for its Arrow files; a README and its kin are left out of others.

    Raises:
        UserError: a folder without files, with several splits or around `output`; a file that is given twice.
    """
    for path in paths:
        if os.path.isdir(path) and output.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(f"output {output} lies in the folder {path}, which is input; give it another place")
    files = [file for path in paths for file in (_folder_files(Path(path)) if os.path.isdir(path) else [path])]
    seen: set[str] = set()
    for file in files:
        if (real := os.path.realpath(file)) in seen:
            raise UserError(f"input {file} is given twice; name a file once")
        seen.add(real)
    return tuple(files)


@contextmanager
def spooled(paths: tuple[str, ...], directory: Path) -> Iterator[tuple[str, ...]]:
    """The paths, with standard input ("-") copied to a file in `directory`, so that it can be read twice."""
    if "-" not in paths:
        yield paths
        return
    spool = directory / "standard-input.partial"
    try:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            with open(spool, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, _SKIP_BYTES)
        yield tuple(str(spool) if path == "-" else path for path in paths)
    finally:
        spool.unlink(missing_ok=True)


def file_bytes(path: str) -> int:
    """The size of a regular file on the disk."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"input {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"input {path}: is not a regular file; prepare needs files to be able to resume")
    return status.st_size


def _folder_files(folder: Path) -> list[str]:
    splits = sorted(path.parent for path in folder.glob("*/state.json"))
    if (folder / "dataset_dict.json").is_file() or any((split / "dataset_info.json").is_file() for split in splits):
        names = ", ".join(map(str, splits))
        raise UserError(f"input {folder} holds the splits of a dataset; name those that are meant: {names}")
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [str(folder / entry["filename"]) for entry in state["_data_files"]]
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    files = [str(path) for path in found if not _NO_CORPUS.fullmatch(path.name)]
    if left_out := [path.name for path in found if str(path) not in files]:
        note(f"input {folder}: left out {', '.join(left_out[:5])}{', ...' if len(left_out) > 5 else ''}")
    if not files:
        raise UserError(f"input {folder}: the folder holds no files; name one with text")
    return files


def _input_file(path: str, json_field: str | None, columns: tuple[str, ...]) -> InputFile:
    file_bytes(path)
    try:
        if is_table(path):
            if json_field is not None:
                raise UserError(f"input {path} is a table; name its text with --columns, and JSON lines in another run")
            return InputFile(path, "lines", table_columns(path, columns), (0, table_groups(path)))
    except OSError as error:
        raise UserError(f"input {path}: {error.strerror or error}") from None
    with InputFile(path).open() as file:
        content = file.read(_HEAD_BYTES)
    if kind := foreign_kind(content, markup=True):
        raise UserError(f"input {path} is {'; '.join(kind)}")
    head = content.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if _ARRAY.match(head) and _goes_on_as_json(head):
        raise UserError(
            f"input {path} is a JSON array; write one object a line (jq -c '.[]' {path}) and name the text's field "
            "with --json_field"
        )
    if json_field is not None:
        return InputFile(path, "json")
    if _OBJECT.match(head):
        raise UserError(f"input {path} holds {_objects(head)}")
    if head.count("\r") > 2 and "\n" not in head:
        raise UserError(f"input {path} has old Mac line ends (CR alone), so it is one line; tr '\\r' '\\n' mends it")
    if path.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl"):
        raise UserError(f"input {path} is JSON lines by its name; name the text's field with --json_field")
    return InputFile(path, "docs" if DOC_EDGE.fullmatch(head.split("\n", 1)[0]) else "lines")


def _goes_on_as_json(head: str) -> bool:
    """Whether the text, which may be cut anywhere, is JSON as far as it goes or at least in its first line."""
    try:
        json.JSONDecoder().raw_decode(head)
        return True
    except RecursionError:
        return False
    except json.JSONDecodeError as error:  # text that is cut goes wrong where it ends
        return error.pos >= len(head.rstrip()) - 1 or error.msg.startswith("Unterminated string")


def _objects(head: str) -> str:
    """What the text is that begins with a JSON object, and what to do about it."""
    line, _, rest = head.partition("\n")
    first = _OBJECT.match(head)
    assert first is not None
    try:
        names = list(json.loads(line))
    except (ValueError, RecursionError):
        if rest:
            return f"a JSON object of several lines (first field: {first[1]}); write one object a line, with jq -c ."
        names = [first[1], "..."]
    return f"JSON lines; name the text's field with --json_field (found: {', '.join(names)[:300]})"


def _compression(path: str) -> str | None:
    with open(path, "rb") as file:
        magic = file.read(4)
    if path.endswith(".gz") or magic.startswith(_GZIP):
        return "gzip"
    return "zstd" if path.endswith(".zst") or magic == MAGIC else None


def _skipped(file: BinaryIO, offset: int) -> BinaryIO:
    while offset > 0 and (block := file.read(min(offset, _SKIP_BYTES))):
        offset -= len(block)
    return file


class _Decompressed:
    """Text of a compressed file; damage raises a UserError with the file name."""

    def __init__(self, path: str, kind: str, offset: int = 0):
        self._path, self._kind = path, kind
        self._errors: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error)
        self._compressed = open(path, "rb")  # noqa: SIM115
        self._compressed.seek(offset)
        if kind == "gzip":
            self._file = gzip.GzipFile(fileobj=self._compressed)
        else:
            zstd = _zstd_module(path)
            self._errors = (EOFError, OSError, zstd.ZstdError)
            self._file = zstd.ZstdFile(self._compressed)

    def read(self, size: int = -1) -> bytes:
        return self._got(self._file.read, size)

    def readline(self, size: int = -1) -> bytes:
        return self._got(self._file.readline, size)

    def _got(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except self._errors as error:
            raise UserError(
                f"input {self._path}: damaged or truncated {self._kind} ({error}); check it with {self._kind} -t"
            ) from None

    def __enter__(self) -> _Decompressed:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._compressed.close()


def _zstd_module(path: str) -> ModuleType:
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise UserError(f"input {path}: zstd needs an extra package; pip install 'albert-fast[corpora]'") from None
