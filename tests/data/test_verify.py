"""verify: every byte of a prepared folder, and shards whose checksums are right and whose content is not."""

import re

import numpy as np
import pytest

from albert_fast import _loader
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.data.manifest import open_folder, write_manifest
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.shards import HEADER, PAGE
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.data.verify import VerifyOptions, verify
from albert_fast.options import UserError

VOCABULARY = [*SPECIAL_TOKENS, *"abcdexyz", *(f"##{c}" for c in "abcdexyz"), "mask", "[", "]", "中", "国"]


@pytest.fixture
def small_folder(tmp_path):
    """Two shards of a few pages over a small vocabulary: a few kilobytes in all."""
    wordpiece_tokenizer(VOCABULARY).save(tmp_path)
    (tmp_path / "t.txt").write_text("abcde a\n中国 ab\n\nab [MASK]\nxyz\n")
    (tmp_path / "u.txt").write_text("a\n\nb\n")
    paths = (str(tmp_path / "t.txt"), str(tmp_path / "u.txt"))
    output = tmp_path / "out"
    prepare(PrepareOptions(input=paths, output=str(output), vocab=str(tmp_path), workers=1, shard_tokens=8))
    return output


def test_verify_accepts_what_prepare_wrote(small_folder, capsys):
    assert len(open_folder(small_folder).shards) == 2
    verify(VerifyOptions(data=str(small_folder)))
    assert "every byte is intact" in capsys.readouterr().out


def refused(folder, path, offset=None):
    with pytest.raises(UserError) as error:
        verify(VerifyOptions(data=str(folder)))
    assert str(path) in str(error.value)
    assert re.search(r"(offset|byte|bytes) \d+", str(error.value))
    if offset is not None:
        assert f"offset {offset}:" in str(error.value)


ONE_BIT = tuple(1 << bit for bit in range(8))
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("masks", "stride"),
    [(ONE_BIT, 9), *(pytest.param(masks, 1, marks=slow) for masks in (ONE_BIT, (0x01,), (0xFF,)))],
    ids=["some", "one-bit", "lowest-bit", "every-bit"],
)
def test_changed_bytes_are_refused_by_name(small_folder, masks, stride):
    for path in small_folder.iterdir():
        content = path.read_bytes()
        for index in range(0, len(content), stride):
            changed = content[index] ^ masks[index % len(masks)]
            path.write_bytes(content[:index] + bytes([changed]) + content[index + 1 :])
            refused(small_folder, path)
        path.write_bytes(content)
    verify(VerifyOptions(data=str(small_folder)))


def test_truncations_are_refused_by_name(small_folder):
    for path in small_folder.iterdir():
        content = path.read_bytes()
        for size in range(0, len(content), 9):
            path.write_bytes(content[:size])
            refused(small_folder, path, None if path.name == "manifest.json" else size)
        path.write_bytes(content + b"\0")
        refused(small_folder, path, None if path.name == "manifest.json" else len(content))
        path.write_bytes(content)


def test_missing_foreign_and_unreadable_files_are_refused(small_folder):
    for path in list(small_folder.iterdir()):
        path.rename(small_folder.parent / "aside")
        if path.name == "manifest.json":
            with pytest.raises(UserError, match=r"has no manifest\.json"):
                verify(VerifyOptions(data=str(small_folder)))
        else:
            refused(small_folder, path, 0)
            path.mkdir()
            refused(small_folder, path, 0)
            path.rmdir()
        (small_folder.parent / "aside").rename(path)
    (small_folder / "shard-00002.bin").write_bytes(b"")
    refused(small_folder, small_folder / "shard-00002.bin", 0)


def first_page(content):
    header = np.frombuffer(content, HEADER, 1)
    return header, np.frombuffer(content, PAGE, 1, int(header["table_offset"][0]))


def reseal(folder, path, content):
    """Make every checksum over a changed shard of one page right again, up to the manifest's own."""
    header, page = first_page(content)
    ordinary, lengths = int(header["ordinary_offset"][0]), int(header["lengths_offset"][0])
    page["page_crc"] = _loader.crc32c(content[int(page["offset"][0]) : ordinary])
    page["lengths_crc"] = _loader.crc32c(content[lengths : lengths + 2 * int(page["num_sentences"][0])])
    bitmap = (len(VOCABULARY) + 7) // 8
    content[ordinary + 64 : ordinary + 68] = _loader.crc32c(content[ordinary : ordinary + bitmap]).to_bytes(4, "little")
    header["table_crc"] = _loader.crc32c(page)
    header["header_crc"] = _loader.crc32c(header.tobytes()[:-4])
    path.write_bytes(content)
    data = open_folder(folder).data
    entry = next(entry for entry in data["shards"] if entry["file"] == path.name)
    entry["crc32c"] = _loader.crc32c(content)
    write_manifest(folder, {key: value for key, value in data.items() if key != "crc32c"})


@pytest.mark.parametrize(
    ("section", "offset", "value", "message"),
    [
        ("page", 0, 0xFF, "token id is outside the vocabulary"),
        ("page", 63, 1, "after the last token of a page is not zero"),
        ("page", 66, 0xFF, "after the last token of a page is not zero"),
        ("page", 127, 1, "after the last token of a page is not zero"),
        ("ordinary_offset", 0, 0xFF, "ordinary ids"),
        ("ordinary_offset", 63, 1, "ordinary id 504 is outside the vocabulary"),
        ("ordinary_offset", 127, 1, "padding after .* is not zero"),
        ("lengths_offset", 0, 9, "sentences sum to .* tokens in a page of"),
        ("lengths_offset", 1, 0, "page 0 does not begin with a document"),
        ("lengths_offset", 63, 1, "padding after .* is not zero"),
        ("table_offset", 63, 1, "padding after .* is not zero"),
        ("header", 16, 31, "vocab_size is 31, not"),
        ("header", 80, 1, "cls_id"),
        ("header", 104, 1, "vocabulary fingerprint"),
        ("header", 136, 1, "ordinary ids, its header says 1"),
    ],
)
def test_shards_that_only_look_sealed_are_refused(small_folder, section, offset, value, message):
    """Wrong bytes under checksums that are all right: the format itself is checked too."""
    path = open_folder(small_folder).shards[0]
    content = bytearray(path.read_bytes())
    header, page = first_page(content)
    begin = {"header": 0, "page": int(page["offset"][0])}.get(section)
    begin = int(header[section][0]) if begin is None else begin
    assert content[begin + offset] != value
    content[begin + offset] = value
    reseal(small_folder, path, content)
    with pytest.raises(UserError, match=message) as error:
        verify(VerifyOptions(data=str(small_folder)))
    assert str(path) in str(error.value)
