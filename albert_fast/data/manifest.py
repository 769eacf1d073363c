"""Manifest of a prepared folder: its files with checksums, sealed with a checksum of its own."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_fast.files import is_sealed, seal, write_file
from albert_fast.options import UserError

MANIFEST = "manifest.json"
FORMAT, VERSION = "albert_fast shards", 1


@dataclass(frozen=True)
class Manifest:
    """The manifest of a finished folder; `data` is the content of manifest.json."""

    directory: Path
    data: dict[str, Any]

    @property
    def shards(self) -> list[Path]:
        return [self.directory / shard["file"] for shard in self.data["shards"]]

    @property
    def tokens(self) -> int:
        return self.data["tokens"]


def write_manifest(directory: Path, data: dict[str, Any]) -> None:
    """Write manifest.json, sealed with its CRC32C; its existence marks the folder as prepared."""
    write_file(directory / MANIFEST, _manifest_bytes(seal(data)))


def open_folder(directory: str | os.PathLike[str]) -> Manifest:
    """Read and check the manifest of a prepared folder.

    Raises:
        UserError: the folder is missing or not (completely) prepared, or its manifest is damaged.
    """
    directory = Path(directory)
    file = directory / MANIFEST
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        reason = (
            "is not a prepared folder (it has no manifest.json)" if directory.is_dir() else "there is no such folder"
        )
        raise UserError(f"data {directory}: {reason}; make one, or finish it, with albert-fast prepare") from None
    except OSError as error:
        raise UserError(f"data {file}: {error.strerror}") from None
    try:
        data = json.loads(content)
        written = _manifest_bytes(data)
        sealed = is_sealed(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        offset = error.pos if isinstance(error, json.JSONDecodeError) else 0
        raise UserError(f"data {file}: offset {offset}: damaged ({error}); prepare the folder again") from None
    if content != written or not sealed:
        pairs = enumerate(zip(content, written, strict=False))
        offset = next((index for index, (found, expected) in pairs if found != expected), 0)
        raise UserError(f"data {file}: offset {offset}: changed since it was written; prepare the folder again")
    if (data["format"], data["version"]) != (FORMAT, VERSION):
        raise UserError(f"data {file}: {data['format']} version {data['version']} is not {FORMAT} version {VERSION}")
    return Manifest(directory, data)


def _manifest_bytes(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, sort_keys=True, indent=1) + "\n").encode()
