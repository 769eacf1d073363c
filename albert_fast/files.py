"""Files and folders that are there whole or not at all, sealed JSON documents, and locks on folders."""

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
    """Give a path to write in place of `path`; when the block ends well its content becomes `path`, all at once.

    The content is on the disk before the name is, so that neither a crash nor a full disk leaves half a file. Where the
    block fails nothing is left, and what a killed process left of the same file goes.

    Raises:
        UserError: `path` is a device, a pipe or a folder; the file system's refusal, with the file and the remedy.
    """
    return _whole(path, is_folder=False)


def whole_folder(path: Path, replace: bool = False) -> AbstractContextManager[Path]:
    """`whole_file` for a folder, which is there when the block begins.

    `path` is then missing or an empty folder or, with `replace`, any folder, whose place is taken at once.
    """
    return _whole(path, is_folder=True, replace=replace)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a small file (text as UTF-8) so that it is there whole or not at all; see `whole_file`."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document for people to read, whole or not at all."""
    write_file(path, strict_json(document, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append a line to a log. A disk without room for it leaves the log as it was; UserError names the file."""
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
        if not is_folder and path.exists() and not path.is_file():  # to take its place would remove /dev/null
            raise UserError(f"output {path} is no regular file; give the path of one, new or old")
        remove_partials(path.parent, f".{glob.escape(path.name)}.*.partial")
        try:
            partial.mkdir() if is_folder else partial.touch()
            with _open(partial) as descriptor:
                with suppress(OSError):  # a file system without locks, where remove_partials removes nothing either
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield partial
                for part in [*partial.rglob("*"), partial]:
                    _sync(part)
                _replace_folder(partial, path) if replace and path.exists() else os.replace(partial, path)
            _sync(path.parent)
            if replace:
                _remove(partial)  # what stood there before
        except BaseException:
            _remove(partial)
            raise


def _replace_folder(new: Path, old: Path) -> None:
    """Give each the other's name; where the system cannot do that at once, `old` is missing for a moment."""
    if not _exchanged(new, old):
        aside = new.with_name(f"{new.name}.partial")
        os.replace(old, aside)
        os.replace(new, old)
        os.replace(aside, new)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two names at once, so that both are always there; False where system or file system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def held_files(directory: Path) -> list[str]:
    """What a folder holds beside the lock and half-written files of a process that was killed at its start."""
    names = os.listdir(directory) if directory.exists() else []
    return [name for name in names if not name.endswith((".lock", ".partial"))]


def remove_partials(directory: Path, pattern: str = ".*.partial") -> None:
    """Remove the half-written files and folders that processes which are no more left in `directory`."""
    for partial in directory.glob(pattern):
        with suppress(OSError), _open(partial) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where the writer lives
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
    """Failures of the file system while `path` is written, as the user's errors."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        remedy = "give a folder that can be written"
        if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in reason:  # safetensors gives no errno
            remedy = "make room and run the same command again, with --resume where it is a training run"
        raise UserError(f"output {path} could not be written: {reason}; {remedy}") from error


def strict_json(document: Any, **settings: Any) -> str:
    """The JSON text of `document`; NaN and infinities, which JSON has not, are null."""
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
    from albert_fast._loader import crc32c  # here: a model needs no compiled extension

    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = crc32c(block, crc)
    return crc


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object with its seal under "crc32c"."""
    return {**document, "crc32c": _canonical_crc(document)}


def is_sealed(document: Mapping[str, Any]) -> bool:
    """Whether the JSON object carries the seal of its own content."""
    return document.get("crc32c") == _canonical_crc(document)


def _canonical_crc(document: Mapping[str, Any]) -> int:
    """CRC32C of the one form that equal JSON objects share: sorted keys, no spaces, the seal left out."""
    from albert_fast._loader import crc32c

    content = {key: value for key, value in document.items() if key != "crc32c"}
    return crc32c(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


@contextmanager
def locked(directory: Path, label: str) -> Iterator[None]:
    """Keep a second run of the same part out; the system lifts the lock when this process ends, however it ends."""
    with writing(directory):
        file = open(directory / f"{label}.lock", "wb")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"output {directory}: another run is writing {label}; wait for it or stop it") from None
        except OSError:
            note(f"{directory} is on a file system without locks; see that no part runs twice at a time")
        yield
