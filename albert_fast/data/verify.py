"""`verify`: checks every byte of a prepared folder against its checksums and the format.

csrc/shard.h checks the shards, as for the loader; this module checks the folder, the manifest and the tokenizer.
"""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from albert_fast._loader import check_shard, crc32c
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.manifest import MANIFEST, Manifest, open_folder
from albert_fast.data.shards import HEADER
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.files import file_crc
from albert_fast.options import Options, UserError, option


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """Check every byte of a prepared folder."""

    data: str = option(help="prepared folder", positional=True)


def verify(options: VerifyOptions) -> None:
    """Check every byte of every file of a prepared folder; prints one line if all is intact.

    Raises:
        UserError: the first fault, with file and offset.
    """
    began = time.monotonic()
    manifest = open_folder(options.data)
    shards = {entry["file"]: entry for entry in manifest.data["shards"]}
    files = {**manifest.data["files"], **shards}
    for name in sorted(os.listdir(manifest.directory)):
        if name != MANIFEST and name not in files:
            raise _fault(manifest.directory / name, 0, "is not in the manifest; remove it, or prepare the folder again")
    for name, entry in files.items():
        _check_size(manifest.directory / name, entry["bytes"])
        if name not in shards:
            with _open(manifest.directory / name) as file:
                _expect(file.name, 0, "CRC32C", crc32c(file.read()), entry["crc32c"])
    tokenizer = load_tokenizer(manifest.directory / "tokenizer.json")
    name = str(manifest.directory / "tokenizer.json")
    _expect(name, 0, "vocabulary fingerprint", tokenizer.fingerprint.hex(), manifest.data["vocabulary_fingerprint"])
    for entry in shards.values():
        _check_shard(manifest.directory / entry["file"], entry, manifest, tokenizer)
    for key in ("tokens", "sentences", "documents"):
        total = sum(entry[key] for entry in shards.values())
        _expect(str(manifest.directory / MANIFEST), 0, f"total of {key}", total, manifest.data[key])
    size = sum(entry["bytes"] for entry in files.values())
    seconds = time.monotonic() - began
    print(
        f"{manifest.directory}: {len(files) + 1} files, {size / 1e6:,.1f} MB, {manifest.tokens:,} tokens: "
        f"every byte is intact ({size / 1e6 / max(seconds, 1e-9):,.0f} MB/s)"
    )


def _check_shard(path: Path, entry: dict[str, Any], manifest: Manifest, tokenizer: Tokenizer) -> None:
    """Check a shard against its checksums and the format, then against the tokenizer and the manifest."""
    try:
        check_shard(str(path))
    except RuntimeError as error:
        raise UserError(f"data {error}") from None
    with _open(path) as file:
        header = np.frombuffer(file.read(HEADER.itemsize), HEADER)[0]
        file.seek(int(header["ordinary_offset"]))
        ordinary = file.read((int(header["vocab_size"]) + 7) // 8)
    expected: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    expected |= {name: getattr(tokenizer, name) for name in ("cls_id", "sep_id", "mask_id", "unk_id", "pad_id")}
    expected |= {f"num_{key}": entry[key] for key in ("tokens", "sentences", "documents")}
    expected |= {"token_bytes": 2 if tokenizer.vocab_size <= 65_536 else 4}
    expected |= {"flags": int(manifest.data["segmenter"] != "none")}
    for name, value in expected.items():
        _expect(path, HEADER.fields[name][1], name, header[name], value)  # type: ignore[index]
    _expect(path, 104, "vocabulary fingerprint", header["fingerprint"].tobytes().hex(), tokenizer.fingerprint.hex())
    of_vocabulary = np.packbits(tokenizer.is_ordinary, bitorder="little").tobytes()
    _expect(path, int(header["ordinary_offset"]), "ordinary ids", ordinary.hex(), of_vocabulary.hex())
    _expect(path, 0, "CRC32C of the file", file_crc(path), entry["crc32c"])


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise _fault(path, 0, f"{error.strerror}; prepare the folder again") from None


def _check_size(path: Path, expected: int) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _fault(path, 0, f"{error.strerror}; prepare the folder again") from None
    if not stat.S_ISREG(status.st_mode):
        raise _fault(path, 0, "is not a regular file; prepare the folder again")
    if status.st_size < expected:
        raise _fault(path, status.st_size, f"the file ends here, {expected} bytes were written; prepare it again")
    if status.st_size > expected:
        raise _fault(
            path, expected, f"the file was written up to here and has {status.st_size} bytes; prepare it again"
        )


def _expect(path: str | Path, offset: int, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise _fault(path, offset, f"{what} is {found}, not {expected}: damaged or changed; prepare the folder again")


def _fault(path: str | Path, offset: int, message: str) -> UserError:
    return UserError(f"data {path}: offset {offset}: {message}")
