"""Files that are there whole or not at all, their checksums, and locks on folders."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from albert_fast.options import UserError, note


def write_file(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole or not at all, even after a crash."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


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


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Failures of the file system while `directory` is written, as the user's errors."""
    try:
        yield
    except OSError as error:
        remedy = "give a folder that can be written"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room and run the same command again: finished shards stay"
        raise UserError(f"output {error.filename or directory}: {error.strerror or error}; {remedy}") from None


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
