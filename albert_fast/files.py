"""Atomic writing of files and folders, JSON documents with a checksum, and locks on folders."""

import ctypes
import errno
import fcntl
import glob
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from albert_fast.options import UserError, note


def whole_file(path: Path) -> AbstractContextManager[Path]:
    """Yield a temporary path to write to, which atomically replaces `path` when the block succeeds.

    The content is synced to disk before the rename, so neither a crash nor a full disk leaves a partial file. If the
    block fails, nothing is left. Partial files of killed processes for the same `path` are removed.

    Raises:
        UserError: `path` is a device, a pipe or a folder, or the file system failed (with the file and the remedy).
    """
    return _whole(path, is_folder=False)


def whole_folder(path: Path, replace: bool = False) -> AbstractContextManager[Path]:
    """`whole_file` for a folder; the yielded folder exists already.

    `path` must be missing or an empty folder; with `replace` it may be any folder, which is replaced atomically.
    """
    return _whole(path, is_folder=True, replace=replace)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a small file atomically, text as UTF-8; see `whole_file`."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: Path, document: Any) -> None:
    """Write an indented JSON document atomically."""
    write_file(path, strict_json(document, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append a line to a log; on a full disk the log is unchanged and UserError names the file."""
    data = f"{line}\n".encode()
    with writing(path), open(path, "ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        if file.write(data) < len(data):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _whole(path: Path, is_folder: bool, replace: bool = False) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        if not is_folder and path.exists() and not path.is_file():  # renaming would replace /dev/null
            raise UserError(f"output {path} is not a regular file; give the path of a regular or new file")
        remove_partials(path.parent, f".{glob.escape(path.name)}.*.partial")
        try:
            partial.mkdir() if is_folder else partial.touch()
            with _open(partial) as descriptor:
                with suppress(OSError):  # no locks on this file system, where remove_partials removes nothing either
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield partial
                for part in [*partial.rglob("*"), partial]:
                    _sync(part)
                _replace_folder(partial, path) if replace and path.exists() else os.replace(partial, path)
            _sync(path.parent)
            if replace:
                _remove(partial)  # the replaced folder
        except BaseException:
            _remove(partial)
            raise


def _replace_folder(new: Path, old: Path) -> None:
    """Swap two folders; `old` is missing for a moment if the system has no atomic exchange."""
    if not _exchanged(new, old):
        aside = new.with_name(f"{new.name}.partial")
        os.replace(old, aside)
        os.replace(new, old)
        os.replace(aside, new)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two names atomically; False if the system or file system does not support it."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    here, exchange = -100, 2  # Linux: AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def held_files(directory: Path) -> list[str]:
    """Names of a folder's files other than locks and partial files, which a killed process may leave."""
    names = os.listdir(directory) if directory.exists() else []
    return [name for name in names if not name.endswith((".lock", ".partial"))]


def remove_partials(directory: Path, pattern: str = ".*.partial") -> None:
    """Remove partial files and folders in `directory` whose writers have died."""
    for partial in directory.glob(pattern):
        with suppress(OSError), _open(partial) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while the writer is alive
            _remove(partial)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _open(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    with _open(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn file system errors while writing `path` into UserError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        remedy = "use a writable folder"
        if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in reason:  # safetensors sets no errno
            remedy = "free some space and repeat the command, with --resume for a training run"
        raise UserError(f"output {path} could not be written: {reason}; {remedy}") from error


def strict_json(document: Any, **settings: Any) -> str:
    """Serialize `document`, with null for NaN and infinity, which JSON lacks."""
    try:
        return json.dumps(document, allow_nan=False, **settings)
    except ValueError:
        return json.dumps(_without_nan(document), allow_nan=False, **settings)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_crc(path: Path) -> int:
    """CRC32C of a file's bytes."""
    from albert_fast._loader import crc32c  # here, so that a model can be used without the extension

    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = crc32c(block, crc)
    return crc


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its checksum under "crc32c"."""
    return {**document, "crc32c": _canonical_crc(document)}


def is_sealed(document: Mapping[str, Any]) -> bool:
    """Whether the document's "crc32c" matches its content."""
    return document.get("crc32c") == _canonical_crc(document)


def _canonical_crc(document: Mapping[str, Any]) -> int:
    """CRC32C of the canonical JSON: sorted keys, no spaces, without "crc32c"."""
    from albert_fast._loader import crc32c

    content = {key: value for key, value in document.items() if key != "crc32c"}
    return crc32c(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


@contextmanager
def locked(directory: Path, label: str) -> Iterator[None]:
    """Lock `directory` for writing `label`; the system releases the lock when the process ends, even if killed."""
    with writing(directory):
        file = open(directory / f"{label}.lock", "wb")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"output {directory}: another run is writing {label}; wait for it or stop it") from None
        except OSError:
            note(f"{directory} is on a file system without locks; never run the same part twice at a time")
        yield
