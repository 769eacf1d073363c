"""Writes TensorFlow V2 checkpoints, with several blocks and data files, and invalid ones on demand."""

import struct
from pathlib import Path

import numpy as np

from albert_fast._loader import crc32c

DTYPES = {"f4": 1, "f8": 2, "i4": 3, "i8": 9, "bf16": 14, "f2": 19, "string": 7}


def masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol-buffer message; 0 is omitted, as protobuf does."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def entry(
    dtype: int, shape: tuple[int, ...], shard: int, offset: int, size: int, crc: int, extra: bytes = b""
) -> bytes:
    dims = b"".join(field(2, field(1, dim)) for dim in shape)
    numbers = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, dtype) + field(2, dims) + numbers + varint(6 << 3 | 5) + struct.pack("<I", crc) + extra


def block(entries: list[tuple[bytes, bytes]], restart_interval: int = 16) -> bytes:
    """A block with shared key prefixes, without its trailer."""
    out, restarts, last = bytearray(), [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return bytes(out) + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))


def write_table(
    path: Path, entries: list[tuple[bytes, bytes]], block_bytes: int = 1 << 18, compression: int = 0
) -> None:
    """A LevelDB table; a small `block_bytes` makes several blocks."""
    out = bytearray()

    def append(body: bytes) -> bytes:
        handle = varint(len(out)) + varint(len(body))
        body += bytes([compression])
        out.extend(body + struct.pack("<I", masked_crc(body)))
        return handle

    handles, pending = [], []
    for item in entries:
        pending.append(item)
        if sum(len(key) + len(value) for key, value in pending) >= block_bytes:
            handles.append((pending[-1][0], append(block(pending))))
            pending = []
    if pending:
        handles.append((pending[-1][0], append(block(pending))))
    footer = append(block([])) + append(block(handles, restart_interval=1))
    out.extend(footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))
    path.write_bytes(out)


def write_bundle(
    prefix: Path,
    tensors: dict[str, np.ndarray] | dict[str, tuple[str, tuple[int, ...], bytes]],
    *,
    num_shards: int = 1,
    **table: int,
) -> None:
    """A checkpoint of `tensors` (arrays, or (key of DTYPES, shape, bytes)), spread over `num_shards` data files."""
    shards = [bytearray() for _ in range(num_shards)]
    entries = []
    for i, name in enumerate(sorted(tensors)):
        tensor = tensors[name]
        if isinstance(tensor, np.ndarray):
            tensor = (tensor.dtype.str[1:], tensor.shape, tensor.tobytes())
        dtype, shape, data = tensor
        shard = shards[i % num_shards]
        value = entry(DTYPES[dtype], shape, i % num_shards, len(shard), len(data), masked_crc(data))
        entries.append((name.encode(), value))
        shard += data
    header = field(1, num_shards) + field(3, field(1, 1))
    write_table(Path(f"{prefix}.index"), [(b"", header), *entries], **table)
    for i, shard in enumerate(shards):
        Path(f"{prefix}.data-{i:05d}-of-{num_shards:05d}").write_bytes(shard)
