"""Reads TensorFlow V2 checkpoints (tensor bundles) without TensorFlow.

A checkpoint PREFIX consists of a sorted table PREFIX.index, which locates each tensor, and data files
PREFIX.data-00000-of-0000N with the raw little-endian bytes. The table's values are protocol buffers
(tensorflow/core/protobuf/tensor_bundle.proto).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from albert_fast._loader import crc32c
from albert_fast.convert.sorted_table import masked, parsing, read_table
from albert_fast.options import UserError
from albert_fast.protobuf import message_fields

# tensorflow/core/framework/types.proto; bfloat16 (14) has no numpy dtype and is widened (exactly) to float32.
_BFLOAT16 = 14
_DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 9: "<i8", 10: "|b1", _BFLOAT16: "<u2", 17: "<u2",
    19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Location of one tensor: `offset` and `size` in bytes in data file `shard`; `crc` is the masked CRC32C."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


class TensorBundle:
    """The tensors of one checkpoint by name. Opening reads only the index; `read` verifies each tensor's checksum.

    Raises:
        UserError: the checkpoint is incomplete or damaged, or uses compressed blocks or sliced (partitioned) tensors,
            which ALBERT's code never writes. The message names file, tensor and offset.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(str(prefix).removesuffix(".index"))
        index = Path(f"{self.prefix}.index")
        table = dict(read_table(index))
        if b"" not in table:
            raise UserError(f"{index}: no header entry, so this is not a TensorFlow checkpoint; give the prefix of one")
        with parsing(index, "header"):
            self.num_shards = _parse_header(table.pop(b""), index)
        self.entries: dict[str, TensorEntry] = {}
        for key, value in table.items():
            name = key.decode(errors="backslashreplace")
            with parsing(index, f"entry of tensor {name!r}"):
                self.entries[name] = _parse_entry(value)
        for name, entry in self.entries.items():
            self._check(index, name, entry)
        self._ends = [0] * self.num_shards
        for entry in self.entries.values():
            self._ends[entry.shard] = max(self._ends[entry.shard], entry.offset + entry.size)
        self.check_data_files()

    def _check(self, index: Path, name: str, entry: TensorEntry) -> None:
        whole = name.split("\0")[1] if name.startswith("\0") else name  # a slice has the key \0, name, \0, extent
        where = f"{index}: tensor {whole!r}"
        if entry.sliced or whole != name:
            raise UserError(f"{where} is stored in slices (a partitioned variable); save it unpartitioned")
        if entry.dtype in _DTYPES:  # other dtypes, such as strings, are rejected by read()
            expected = int(np.prod(entry.shape, dtype=object)) * np.dtype(_DTYPES[entry.dtype]).itemsize
            if entry.size != expected:
                raise UserError(f"{where}: {entry.size} bytes, but shape {entry.shape} takes {expected}; copy it again")
        if entry.shard >= self.num_shards:
            raise UserError(f"{where} is in data file {entry.shard} of {self.num_shards}; copy the checkpoint again")

    def check_data_files(self) -> None:
        """UserError unless every data file exists and ends exactly where its last tensor does."""
        for shard, end in enumerate(self._ends):
            path = self.data_file(shard)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}; copy all {self.num_shards} data file(s)") from None
            if size != end:
                state = "truncated" if size < end else "longer than its index says, so the two do not match"
                raise UserError(f"{path} is {state}: {size} bytes of {end}; copy the checkpoint again")

    def data_file(self, shard: int) -> Path:
        return Path(f"{self.prefix}.data-{shard:05d}-of-{self.num_shards:05d}")

    def read(self, name: str) -> np.ndarray:
        """Read the tensor `name` and verify its CRC; bfloat16 becomes float32, other dtypes are unchanged."""
        entry = self.entries[name]
        if entry.dtype not in _DTYPES:
            raise UserError(f"{self.prefix}.index: tensor {name!r} has the non-numeric TensorFlow dtype {entry.dtype}")
        data = self._read_checked(name, entry).view(_DTYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == _BFLOAT16:
            return (data.astype(np.uint32) << 16).view(np.float32)
        return data

    def verify(self) -> None:
        """Read every tensor, even unused ones; UserError at the first whose CRC does not match.

        String tensors are skipped: their CRC is computed differently, and ALBERT has none.
        """
        for name, entry in self.entries.items():
            if entry.dtype in _DTYPES:
                self._read_checked(name, entry)

    def _read_checked(self, name: str, entry: TensorEntry) -> np.ndarray:
        path = self.data_file(entry.shard)
        data = np.fromfile(path, np.uint8, count=entry.size, offset=entry.offset)
        where = f"{path}: tensor {name!r} at byte {entry.offset}"
        if data.size != entry.size:
            raise UserError(f"{where}: the file ends after {data.size} of {entry.size} bytes; copy it again")
        if masked(crc32c(data)) != entry.crc:
            raise UserError(f"{where} is damaged: its {entry.size} bytes do not match their CRC; copy it again")
        return data


def _parse_header(message: bytes, index: Path) -> int:
    """The number of data files, from a BundleHeaderProto."""
    header = dict(message_fields(message))
    if header.get(2, 0) != 0:
        raise UserError(f"{index}: big-endian checkpoints are not supported; save it on a little-endian machine")
    num_shards = int(header.get(1, 0))
    if not 1 <= num_shards <= 99_999:
        raise ValueError(f"{num_shards} data files")
    return num_shards


def _parse_entry(message: bytes) -> TensorEntry:
    """A BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, crc32c = 6, slices = 7."""
    values = {"dtype": 0, "shard": 0, "offset": 0, "size": 0, "crc": 0}
    shape: tuple[int, ...] = ()
    sliced = False
    for number, value in message_fields(message):
        if number == 2 and isinstance(value, bytes):
            # TensorShapeProto: dim = 2, each with size = 1; a size of 0 is omitted
            dims = [
                dict(message_fields(dim)) for key, dim in message_fields(value) if key == 2 and isinstance(dim, bytes)
            ]
            shape = tuple(int(dim.get(1, 0)) for dim in dims)
        elif number in (1, 3, 4, 5, 6) and isinstance(value, int):
            values[("dtype", "", "shard", "offset", "size", "crc")[number - 1]] = value
        elif number == 7:
            sliced = True
    return TensorEntry(**values, shape=shape, sliced=sliced)
