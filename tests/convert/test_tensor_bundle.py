"""TensorFlow checkpoints are read exactly if intact, and refused with the damaged part named otherwise."""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundle_cases import arrays, refusal
from support.bundles import DTYPES, entry, field, write_bundle, write_table

from albert_fast.convert.tensor_bundle import TensorBundle
from albert_fast.options import UserError

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"


@pytest.fixture(params=["tf_zh", "tf_google"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Prefix of a writable copy of a checkpoint written by TensorFlow."""
    source = FIXTURES / request.param
    if not source.is_dir():
        pytest.skip(f"needs checkpoints written by TensorFlow in {source}")
    for file in source.glob("albert_model.ckpt.*"):
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path / "albert_model.ckpt"


def test_reads_what_tensorflow_wrote(published: Path) -> None:
    bundle = TensorBundle(published)
    bundle.verify()
    assert bundle.read("global_step") == 2
    gamma = bundle.read("bert/embeddings/LayerNorm/gamma")
    assert gamma.dtype == np.float32
    assert abs(float(gamma.mean()) - 1) < 0.3  # random weights, LayerNorm gamma about 1 (the fixtures' README)
    assert len(bundle.entries) in (94, 97)


@pytest.mark.parametrize("block_bytes", [1, 200, 1 << 18], ids="block{}".format)
@pytest.mark.parametrize("num_shards", [1, 3], ids="shards{}".format)
def test_blocks_and_shards(tmp_path: Path, block_bytes: int, num_shards: int) -> None:
    write_bundle(tmp_path / "model", arrays(), num_shards=num_shards, block_bytes=block_bytes)
    bundle = TensorBundle(tmp_path / "model.index")
    bundle.verify()
    assert set(bundle.entries) == set(arrays())
    for name, expected in arrays().items():
        actual = bundle.read(name)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5], [3.0e38, 1e-40]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    write_bundle(tmp_path / "model", {"x": ("bf16", (2, 2), bits.tobytes())})
    actual = TensorBundle(tmp_path / "model").read("x")
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.uint32), bits.astype(np.uint32) << 16)


def test_every_truncation_of_the_index(published: Path) -> None:
    index = Path(f"{published}.index")
    for size in reversed(range(index.stat().st_size)):
        os.truncate(index, size)
        refusal(published, str(index))


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)], ids="every{}".format)
def test_every_truncation_of_the_data(published: Path, step: int) -> None:
    bundle = TensorBundle(published)
    data = bundle.data_file(0)
    accepted = []
    for size in range(data.stat().st_size - 1, -1, -step):
        os.truncate(data, size)
        try:
            bundle.check_data_files()  # all that opening checks in the data files
            accepted.append(size)
        except UserError:
            pass
        if size % 10_007 == 0:
            refusal(published, data.name, "truncated", f"{size} bytes of")
    assert not accepted
    data.unlink()
    refusal(published, data.name, "No such file")


def test_every_changed_byte_of_the_index(published: Path) -> None:
    index = Path(f"{published}.index")
    generator = random.Random(1)
    with index.open("r+b", buffering=0) as file:
        for position, byte in enumerate(index.read_bytes()):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << generator.randrange(8)]), position)
            refusal(published, str(index))
            os.pwrite(file.fileno(), bytes([byte]), position)


def test_changed_bytes_of_the_data(published: Path) -> None:
    bundle = TensorBundle(published)
    data = bundle.data_file(0)
    whole = data.read_bytes()
    edges = {e.offset for e in bundle.entries.values()} | {e.offset + e.size - 1 for e in bundle.entries.values()}
    generator = random.Random(2)
    for position in sorted(edges | {generator.randrange(len(whole)) for _ in range(150)}):
        with data.open("r+b") as file:
            file.seek(position)
            file.write(bytes([whole[position] ^ 1 << generator.randrange(8)]))
            file.flush()
            name = next(n for n, e in bundle.entries.items() if e.offset <= position < e.offset + e.size)
            offset = bundle.entries[name].offset
            message = refusal(published, data.name, repr(name), f"byte {offset}")
            assert "do not match their CRC" in message
            with pytest.raises(UserError, match="do not match"):
                bundle.read(name)
            file.seek(position)
            file.write(whole[position : position + 1])
    bundle.verify()


def test_data_longer_than_the_index_says(published: Path) -> None:
    with Path(f"{published}.data-00000-of-00001").open("ab") as file:
        file.write(b"x")
    refusal(published, "longer than its index says")


def single(tmp_path: Path, header: bytes = field(1, 1), **changes: object) -> Path:
    """A checkpoint of one tensor "x" of 8 bytes with an invalid header or entry."""
    values = {"dtype": 1, "shape": (2,), "shard": 0, "offset": 0, "size": 8, "crc": 0, **changes}
    write_table(tmp_path / "model.index", [(b"", header), (b"x", entry(**values))])  # type: ignore[arg-type]
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(8))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": field(7, field(1, field(1, 1)))}, ("'x'", "slices")),
        ({"shape": (3,)}, ("'x'", "8 bytes", "takes 12")),
        ({"shape": (2**63, 2**63)}, ("'x'", "8 bytes")),
        ({"shard": 1}, ("'x'", "data file 1 of 1")),
        ({"header": field(1, 2)}, ("model.data-00000-of-00002", "No such file")),
        ({"header": field(1, 0)}, ("header is damaged",)),
        ({"header": field(1, 1) + field(2, 1)}, ("big-endian",)),
    ],
    ids=["slices", "shape", "huge shape", "shard", "missing shard", "no shards", "big-endian"],
)
def test_inconsistent_entries_are_refused(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    refusal(single(tmp_path, **changes), *words)


def test_an_unknown_dtype_is_refused_when_read(tmp_path: Path) -> None:
    bundle = TensorBundle(single(tmp_path, dtype=DTYPES["string"]))
    with pytest.raises(UserError, match=r"model.index: tensor 'x' has the non-numeric TensorFlow dtype 7"):
        bundle.read("x")


def test_other_files_are_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "absent", "absent.index", "No such file")
    (tmp_path / "text.index").write_text("not a table at all, but long enough to hold a footer of 48 bytes")
    refusal(tmp_path / "text", "text.index", "magic")
    write_table(tmp_path / "leveldb.index", [(b"key", b"value")])
    refusal(tmp_path / "leveldb", "no header entry")
    write_table(tmp_path / "unsorted.index", [(b"", field(1, 1)), (b"b", b""), (b"a", b"")])
    refusal(tmp_path / "unsorted", "not sorted")
