"""Finds the frames of a .zst file, at which decompression can start (RFC 8878, section 3).

Concatenated files and zstd's seekable format have many independent frames. Their sizes are in the frame headers or in
the seek table at the end of the file; pzstd writes neither. Nothing is decompressed here.
"""

from typing import BinaryIO, NamedTuple

MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f: a skippable frame, without text
_RLE = 1  # block type: one repeated byte
_TABLE_END = b"\xb1\xea\x92\x8f"  # contrib/seekable_format/zstd_seekable_compression_format.md


class Frame(NamedTuple):
    """Offsets of a frame in the file and in the decompressed text."""

    offset: int
    text_offset: int


def find_frames(file: BinaryIO) -> tuple[tuple[Frame, ...], int]:
    """The frames and total text bytes; no frames if a size is unknown or the file is damaged."""
    frames, text = [], 0
    try:
        sizes = iter(_seek_table(file))
        file.seek(0)
        while magic := file.read(4):
            if magic[1:] == _SKIPPABLE and 0x50 <= magic[0] <= 0x5F:
                file.seek(_number(file, 4), 1)
                continue
            begin, size = file.tell() - 4, _pass_frame(file) if magic == MAGIC else None
            size = next(sizes, size)
            if size is None:
                return (), 0
            frames.append(Frame(begin, text))
            text += size
    except EOFError:
        return (), 0
    return tuple(frames), text


def _seek_table(file: BinaryIO) -> list[int]:
    """Decompressed frame sizes from the seek table; empty if there is none."""
    end = file.seek(0, 2)
    file.seek(max(end - 9, 0))
    count, has_checksums, magic = _number(file, 4), _number(file, 1) >> 7, file.read()
    if magic != _TABLE_END:
        return []
    entry = 12 if has_checksums else 8
    file.seek(max(end - 9 - count * entry, 0))
    table = file.read(count * entry)
    return [int.from_bytes(table[begin + 4 : begin + 8], "little") for begin in range(0, len(table), entry)]


def _pass_frame(file: BinaryIO) -> int | None:
    """Skip the rest of a frame after its magic number; returns its decompressed size if stated."""
    descriptor = _number(file, 1)
    single, has_checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    file.seek((0 if single else 1) + (0, 1, 2, 4)[descriptor & 3], 1)  # skip window size and dictionary id
    field = (single, 2, 4, 8)[descriptor >> 6]
    size = _number(file, field) + (256 if field == 2 else 0) if field else None
    last = False
    while not last:
        block = _number(file, 3)
        last = bool(block & 1)
        file.seek(1 if block >> 1 & 3 == _RLE else block >> 3, 1)
    file.seek(4 * has_checksum, 1)
    return size


def _number(file: BinaryIO, size: int) -> int:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return int.from_bytes(data, "little")
