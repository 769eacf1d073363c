"""LevelDB sorted tables: compressed blocks are refused, and the parsers survive arbitrary bytes."""

import random
import struct
from pathlib import Path

import pytest
from support.bundle_cases import arrays, refusal
from support.bundles import block, entry, masked_crc, varint, write_bundle

from albert_fast.convert.sorted_table import _block
from albert_fast.convert.tensor_bundle import _parse_entry


@pytest.mark.parametrize("compression", [1, 2])
def test_compressed_blocks_are_refused(tmp_path: Path, compression: int) -> None:
    write_bundle(tmp_path / "model", arrays(), compression=compression)
    refusal(tmp_path / "model", "model.index", "block at byte", "snappy" if compression == 1 else "method 2")


def test_parsers_survive_arbitrary_bytes(tmp_path: Path) -> None:
    """Damage with a valid CRC raises only the exceptions that the reader converts to UserError."""
    generator = random.Random(3)
    whole = block([(name.encode(), entry(1, (2, 3), 0, 5, 24, 9)) for name in sorted(arrays())])
    refused = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(generator.randrange(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        body = bytes(damaged[: generator.randrange(5, len(damaged) + 1)]) + b"\0"
        data = body + struct.pack("<I", masked_crc(body))
        try:
            for _, value in _block(tmp_path, data, 0, len(body) - 1, len(data)):
                _parse_entry(value)
        except (ValueError, IndexError, OverflowError):
            refused += 1
    assert refused > 1000
    with pytest.raises(ValueError):
        _parse_entry(varint(1 << 3) + b"\xff" * 11)
