"""Reads LevelDB sorted tables, the format of TensorFlow checkpoint indexes (leveldb, doc/table_format.md).

A table consists of blocks of sorted, prefix-compressed entries, each followed by its compression type and a masked
CRC32C; an index block; and a footer. Numbers are little-endian.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from albert_fast._loader import crc32c
from albert_fast.options import UserError
from albert_fast.protobuf import varint

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # after each block: compression type (1 byte) and CRC (4 bytes)


def read_table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a LevelDB table in order, checking every byte of the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the prefix of a TensorFlow checkpoint, PREFIX.index") from None
    if len(data) < _FOOTER_BYTES or struct.unpack_from("<Q", data, len(data) - 8)[0] != _MAGIC:
        raise UserError(f"{path} is truncated or not a TensorFlow checkpoint index: wrong magic number; copy it again")
    footer = len(data) - _FOOTER_BYTES
    with parsing(path, "footer"):
        position = footer
        meta_offset, position = varint(data, position)
        meta_size, position = varint(data, position)
        index_offset, position = varint(data, position)
        index_size, position = varint(data, position)
        if any(data[position : len(data) - 8]):
            raise ValueError("padding is not zero")
    covered = meta_size + index_size + 2 * _TRAILER_BYTES
    last_key: bytes | None = None
    for _, handle in _block(path, data, index_offset, index_size, footer):
        with parsing(path, f"index block at byte {index_offset}"):
            offset, position = varint(handle, 0)
            size, position = varint(handle, position)
        covered += size + _TRAILER_BYTES
        for key, value in _block(path, data, offset, size, footer):
            if last_key is not None and key <= last_key:
                raise UserError(f"{path}: block at byte {offset} is damaged (keys are not sorted); copy the file again")
            last_key = key
            yield key, value
    list(_block(path, data, meta_offset, meta_size, footer))
    if covered != footer:
        raise UserError(f"{path}: its blocks cover {covered} of {footer} bytes; copy the file again")


def _block(path: Path, data: bytes, offset: int, size: int, limit: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries (key, value) of the block at `offset`; no block may extend beyond byte `limit`."""
    where = f"block at byte {offset}"
    if offset + size + _TRAILER_BYTES > limit:
        raise UserError(f"{path}: {where} overlaps the footer at byte {limit}; copy the file again")
    compression, crc = struct.unpack_from("<BI", data, offset + size)
    if masked(crc32c(data[offset : offset + size + 1])) != crc:
        raise UserError(f"{path}: {where} is damaged: its {size} bytes do not match their CRC; copy the file again")
    if compression:
        method = "snappy" if compression == 1 else f"method {compression}"
        raise UserError(f"{path}: {where} is compressed ({method}), which is not supported; save it uncompressed")
    block = data[offset : offset + size]
    with parsing(path, where):
        end = len(block) - 4 - 4 * struct.unpack_from("<I", block, len(block) - 4)[0]
        if end < 0:
            raise ValueError("more restart points than bytes")
        key, position = b"", 0
        while position < end:
            shared, position = varint(block, position)
            unshared, position = varint(block, position)
            length, position = varint(block, position)
            if shared > len(key) or position + unshared + length > end:
                raise ValueError(f"the entry at byte {position} is too long")
            key = key[:shared] + block[position : position + unshared]
            position += unshared
            yield key, block[position : position + length]
            position += length


def masked(crc: int) -> int:
    """LevelDB's masked CRC: rotated and offset, so that the CRC of data containing CRCs stays meaningful."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@contextmanager
def parsing(path: Path, what: str) -> Iterator[None]:
    """Convert the exceptions that parsers raise on damaged bytes into a UserError naming file and part."""
    try:
        yield
    except UserError:
        raise
    except (IndexError, ValueError, OverflowError, struct.error) as error:
        raise UserError(f"{path}: {what} is damaged ({error}); copy the file again") from None
