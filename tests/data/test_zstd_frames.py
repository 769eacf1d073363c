"""Frames of .zst files: found by their headers, entered in their middle, the same documents and bytes from any cut."""

import io
import itertools
import struct
import sys
from pathlib import Path

import pytest

from albert_fast.data import text
from albert_fast.data.input_files import InputFile
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.text import Position, part_spans, read_chunks
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.data.zstd_frames import find_frames
from albert_fast.options import UserError

zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
DOCUMENTS = [f"a b c {i}.\nd e f {i}.\n" for i in range(200)]
TEXT = "\n".join(DOCUMENTS).encode()
SKIPPABLE = b"\x5e\x2a\x4d\x18\x04\x00\x00\x00seek"


def framed(cuts: list[int], **options: int) -> bytes:
    """TEXT in frames that end at `cuts`, a skippable one before each, as pzstd has them."""
    pieces = [TEXT[a:b] for a, b in itertools.pairwise([0, *cuts, len(TEXT)])]
    return b"".join(SKIPPABLE + zstd.compress(piece, **options) for piece in pieces)


def unsized(data: bytes) -> bytes:
    """A frame as of a pipe, which does not say how long its text is."""
    compressor = zstd.ZstdCompressor()
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize("size", [1, 200, 300, 70_000, 300_000], ids=str)
@pytest.mark.parametrize("checksum", [0, 1])
def test_frames_of_every_kind_of_header(size: int, checksum: int) -> None:
    """Sizes of 1, 2 and 4 bytes, several blocks, blocks of one repeated byte."""
    flags = {zstd.CompressionParameter.checksum_flag: checksum}
    pieces = [bytes(size), bytes(i * i % 251 for i in range(size)), b"end"]
    frames = [zstd.compress(piece, options=flags) for piece in pieces]
    found, total = find_frames(io.BytesIO(b"".join(frames)))
    assert [frame.offset for frame in found] == [0, len(frames[0]), len(frames[0]) + len(frames[1])]
    assert [frame.text_offset for frame in found] == [0, size, 2 * size]
    assert total == 2 * size + 3


def test_what_cannot_be_entered_is_read_from_its_beginning(tmp_path: Path) -> None:
    for content in (zstd.compress(TEXT), unsized(TEXT[:500]) + unsized(TEXT[500:]), framed([700]) + b"abc"):
        (tmp_path / "a.zst").write_bytes(content)
        assert not InputFile(str(tmp_path / "a.zst")).is_seekable


@pytest.mark.parametrize("checksums", [0, 1])
def test_the_seekable_formats_table_says_sizes_that_frames_do_not(checksums: int) -> None:
    pieces = [TEXT[:700], TEXT[700:2000], TEXT[2000:]]
    frames = [unsized(piece) for piece in pieces]
    entries = [struct.pack("<II", len(f), len(p)) + bytes(4 * checksums) for f, p in zip(frames, pieces, strict=True)]
    table = b"".join(entries) + struct.pack("<IBI", 3, checksums << 7, 0x8F92EAB1)
    content = b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(table)) + table
    found, total = find_frames(io.BytesIO(content))
    assert [frame.text_offset for frame in found] == [0, 700, 2000]
    assert total == len(TEXT)


def test_a_cut_file_of_frames_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(framed([700, 2000])[:-9])
    with pytest.raises(UserError, match=r"a\.zst: damaged or truncated zstd"):
        list(read_chunks(part_spans([InputFile(str(tmp_path / "a.zst"))], 1, 1), Position(0, 0)))


def test_a_file_is_entered_at_any_byte(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(framed([700, 701, 2000]))
    file = InputFile(str(tmp_path / "a.zst"))
    assert file.is_seekable
    for offset in (0, 1, 699, 700, 701, 1999, 2000, 2500, len(TEXT)):
        with file.open(offset) as stream:
            assert stream.read() == TEXT[offset:]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_of_frames_hold_every_document_once(tmp_path: Path, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames may end in the middle of a line."""
    monkeypatch.setattr(text, "CHUNK_BYTES", 256)
    (tmp_path / "a.zst").write_bytes(framed([700, 1501, 2222]))
    files, found, shares = [InputFile(str(tmp_path / "a.zst"))], b"", []
    for part in range(1, parts + 1):
        spans = part_spans(files, part, parts)
        data = b"".join(chunk.data for chunk in read_chunks(spans, Position(0, spans[0].start))) if spans else b""
        assert data[:1] in (b"", b"a")  # begins with a document
        found += data
        shares.append(len(data))
    assert found == TEXT
    assert max(shares) < 2 * len(TEXT) / parts


def test_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *"abcdef.", *map(str, range(200))]))
    (tmp_path / "a.zst").write_bytes(framed([700, 1501, 2222]))
    (tmp_path / "a.txt").write_bytes(TEXT)
    shards = []
    for name, workers in (("a.zst", 1), ("a.zst", 3), ("a.txt", 1)):
        output = tmp_path / f"{name}-{workers}"
        given = {"vocab": str(tmp_path / "vocab.txt"), "workers": workers}
        prepare(PrepareOptions(input=(str(tmp_path / name),), output=str(output), **given))
        shards.append((output / "shard-00000.bin").read_bytes())
    assert shards[0] == shards[1] == shards[2]
