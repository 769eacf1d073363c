"""Reads TensorFlow V2 checkpoints (tensor bundles) without TensorFlow.

A checkpoint PREFIX is a table PREFIX.index, which says where each tensor lies, and the bytes themselves in
PREFIX.data-00000-of-0000N. The table has LevelDB's format (leveldb, doc/table_format.md): blocks of sorted entries
whose keys share prefixes, each block followed by its compression and a masked CRC32C; a block that lists the blocks; a
footer. Its values are protocol buffers (tensorflow/core/protobuf/tensor_bundle.proto). Data are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from albert_fast._loader import crc32c
from albert_fast.config import UserError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # of a block: one byte of compression, four of CRC

# tensorflow/core/framework/types.proto; bfloat16 (14) has no numpy type and is widened to float32, which is exact.
_BFLOAT16 = 14
_DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 9: "<i8", 10: "|b1", _BFLOAT16: "<u2", 17: "<u2",
    19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: `offset` and `size` in bytes within data file `shard`; `crc` is the masked CRC32C."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


class TensorBundle:
    """The tensors of one checkpoint by name. Opening reads the index alone; `read` checks what it reads.

    Raises UserError, naming file, tensor and offset, for anything that is not a whole, undamaged checkpoint, and for
    compressed blocks and sliced (partitioned) tensors, which ALBERT's own code never writes.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(str(prefix).removesuffix(".index"))
        index = Path(f"{self.prefix}.index")
        table = dict(_read_table(index))
        if b"" not in table:
            raise UserError(f"{index}: no header entry, so this is a table but no TensorFlow checkpoint")
        with _parsing(index, "header"):
            self.num_shards = _parse_header(table.pop(b""), index)
        self.entries: dict[str, TensorEntry] = {}
        for key, value in table.items():
            name = key.decode(errors="backslashreplace")
            with _parsing(index, f"entry of tensor {name!r}"):
                self.entries[name] = _parse_entry(value)
        for name, entry in self.entries.items():
            self._check(index, name, entry)
        self._ends = [0] * self.num_shards
        for entry in self.entries.values():
            self._ends[entry.shard] = max(self._ends[entry.shard], entry.offset + entry.size)
        self.check_data_files()

    def _check(self, index: Path, name: str, entry: TensorEntry) -> None:
        whole = name.split("\0")[1] if name.startswith("\0") else name  # a slice is filed as \0, name, \0, its extent
        where = f"{index}: tensor {whole!r}"
        if entry.sliced or whole != name:
            raise UserError(f"{where} is stored in slices (a partitioned variable); save it whole and convert that")
        if entry.dtype in _DTYPES:  # others (strings, say) are only refused when asked for
            expected = int(np.prod(entry.shape, dtype=object)) * np.dtype(_DTYPES[entry.dtype]).itemsize
            if entry.size != expected:
                raise UserError(f"{where}: {entry.size} bytes, but its shape {entry.shape} takes {expected}")
        if entry.shard >= self.num_shards:
            raise UserError(f"{where} lies in data file {entry.shard} of {self.num_shards}")

    def check_data_files(self) -> None:
        """Raise UserError unless every data file is there and ends exactly where its last tensor does."""
        for shard, end in enumerate(self._ends):
            path = self.data_file(shard)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise UserError(
                    f"{path}: {error.strerror}; the index tells of {self.num_shards} data file(s)"
                ) from None
            if size != end:
                state = "truncated" if size < end else "longer than its index says, so the two do not belong together"
                raise UserError(f"{path} is {state}: {size} bytes of {end}; copy the checkpoint again")

    def data_file(self, shard: int) -> Path:
        return Path(f"{self.prefix}.data-{shard:05d}-of-{self.num_shards:05d}")

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`, checked against its CRC; bfloat16 comes as float32, all else as it was saved."""
        entry = self.entries[name]
        if entry.dtype not in _DTYPES:
            raise UserError(
                f"{self.prefix}.index: tensor {name!r} has TensorFlow's dtype {entry.dtype}, not a number's"
            )
        data = self._read_checked(name, entry).view(_DTYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == _BFLOAT16:
            return (data.astype(np.uint32) << 16).view(np.float32)
        return data

    def verify(self) -> None:
        """Read every tensor, the unused ones too, and raise UserError at the first whose CRC does not match.

        Strings are left out: their CRC is another kind, and ALBERT has none.
        """
        for name, entry in self.entries.items():
            if entry.dtype in _DTYPES:
                self._read_checked(name, entry)

    def _read_checked(self, name: str, entry: TensorEntry) -> np.ndarray:
        path = self.data_file(entry.shard)
        data = np.fromfile(path, np.uint8, count=entry.size, offset=entry.offset)
        where = f"{path}: tensor {name!r} at byte {entry.offset}"
        if data.size != entry.size:
            raise UserError(f"{where}: the file ends after {data.size} of {entry.size} bytes")
        if _mask(crc32c(data)) != entry.crc:
            raise UserError(f"{where} is damaged: its {entry.size} bytes do not match their CRC; copy it again")
        return data


def _mask(crc: int) -> int:
    """LevelDB stores CRCs rotated and shifted, so that a CRC over data that holds CRCs stays a good one."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@contextmanager
def _parsing(path: Path, what: str) -> Iterator[None]:
    """Turns what the parsers below raise on damaged bytes into a UserError that names the place."""
    try:
        yield
    except UserError:
        raise
    except (IndexError, ValueError, OverflowError, struct.error) as error:
        raise UserError(f"{path}: {what} is damaged ({error})") from None


def _read_table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a LevelDB table, in order; every byte of the file is checked."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the prefix of a TensorFlow checkpoint, PREFIX.index") from None
    if len(data) < _FOOTER_BYTES or struct.unpack_from("<Q", data, len(data) - 8)[0] != _MAGIC:
        raise UserError(f"{path} is no TensorFlow checkpoint index, or truncated: its last 8 bytes are not the magic")
    footer = len(data) - _FOOTER_BYTES
    with _parsing(path, "footer"):
        position = footer
        meta_offset, position = _varint(data, position)
        meta_size, position = _varint(data, position)
        index_offset, position = _varint(data, position)
        index_size, position = _varint(data, position)
        if any(data[position : len(data) - 8]):
            raise ValueError("padding is not zero")
    covered = meta_size + index_size + 2 * _TRAILER_BYTES
    last_key: bytes | None = None
    for _, handle in _block(path, data, index_offset, index_size, footer):
        with _parsing(path, f"list of blocks at byte {index_offset}"):
            offset, position = _varint(handle, 0)
            size, position = _varint(handle, position)
        covered += size + _TRAILER_BYTES
        for key, value in _block(path, data, offset, size, footer):
            if last_key is not None and key <= last_key:
                raise UserError(f"{path}: block at byte {offset} is damaged (its keys are not sorted)")
            last_key = key
            yield key, value
    list(_block(path, data, meta_offset, meta_size, footer))
    if covered != footer:
        raise UserError(f"{path}: its blocks cover {covered} of {footer} bytes; parts are missing or foreign")


def _block(path: Path, data: bytes, offset: int, size: int, limit: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries (key, value) of the block at `offset`; `limit` is where blocks end."""
    where = f"block at byte {offset}"
    if offset + size + _TRAILER_BYTES > limit:
        raise UserError(f"{path}: {where} ends past byte {limit}, where the footer begins")
    compression, crc = struct.unpack_from("<BI", data, offset + size)
    if _mask(crc32c(data[offset : offset + size + 1])) != crc:
        raise UserError(f"{path}: {where} is damaged: its {size} bytes do not match their CRC; copy the file again")
    if compression:
        kind = {1: "snappy"}.get(compression, f"method {compression}")
        raise UserError(f"{path}: {where} is compressed ({kind}), which TensorFlow's own savers never do; re-save it")
    block = data[offset : offset + size]
    with _parsing(path, where):
        end = len(block) - 4 - 4 * struct.unpack_from("<I", block, len(block) - 4)[0]
        if end < 0:
            raise ValueError("more restart points than bytes")
        key, position = b"", 0
        while position < end:
            shared, position = _varint(block, position)
            unshared, position = _varint(block, position)
            length, position = _varint(block, position)
            if shared > len(key) or position + unshared + length > end:
                raise ValueError(f"an entry at byte {position} runs over")
            key = key[:shared] + block[position : position + unshared]
            position += unshared
            yield key, block[position : position + length]
            position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The variable-length integer at `position` and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol-buffer message as (number, value), in the order of its bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, position = _varint(message, position)
        if length is None or position + length > len(message):
            raise ValueError(f"field {number} of wire type {kind} at byte {position}")
        piece = message[position : position + length]
        yield number, piece if kind == 2 else int.from_bytes(piece, "little")
        position += length


def _parse_header(message: bytes, index: Path) -> int:
    """The number of data files, from a BundleHeaderProto."""
    header = dict(_fields(message))
    if header.get(2, 0) != 0:
        raise UserError(f"{index}: the checkpoint is big-endian; save it on a little-endian machine")
    num_shards = int(header.get(1, 0))
    if not 1 <= num_shards <= 99_999:
        raise ValueError(f"{num_shards} data files")
    return num_shards


def _parse_entry(message: bytes) -> TensorEntry:
    """A BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, crc32c = 6, slices = 7."""
    values = {"dtype": 0, "shard": 0, "offset": 0, "size": 0, "crc": 0}
    shape: tuple[int, ...] = ()
    sliced = False
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            # TensorShapeProto: dim = 2, each with size = 1; a size of 0 is not written
            dims = [dict(_fields(dim)) for key, dim in _fields(value) if key == 2 and isinstance(dim, bytes)]
            shape = tuple(int(dim.get(1, 0)) for dim in dims)
        elif number in (1, 3, 4, 5, 6) and isinstance(value, int):
            values[("dtype", "", "shard", "offset", "size", "crc")[number - 1]] = value
        elif number == 7:
            sliced = True
    return TensorEntry(**values, shape=shape, sliced=sliced)
