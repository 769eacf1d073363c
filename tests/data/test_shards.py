"""prepare, the plain reader and verify: what every line of text becomes, whatever is in it."""

import gzip
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from albert_fast import _loader
from albert_fast.data import text as text_module
from albert_fast.data.manifest import open_folder, write_manifest
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.shards import HEADER, MAX_PAGE_TOKENS, MAX_SENTENCE_TOKENS, PAGE, read_documents, read_sentences
from albert_fast.data.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from albert_fast.data.verify import VerifyOptions, verify
from albert_fast.options import UserError

LETTERS = "abcdefgh"
VOCABULARY = [
    *SPECIAL_TOKENS,
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    "abc",
    "##de",
    "mask",
    "[",
    "]",
    "中",
    "国",
    "\u2028",
]


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece_tokenizer(VOCABULARY)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("vocab")
    tokenizer.save(folder)
    return str(folder / "tokenizer.json")


@pytest.fixture
def make(tmp_path, vocab):
    """A function from inputs (bytes by file name) to the prepared folder's path."""

    def make(inputs, output="out", **options):
        paths = []
        for name, content in inputs.items():
            path = tmp_path / name
            if path.exists() and path.read_bytes() == content:
                pass
            else:
                path.write_bytes(content)
            paths.append(str(path))
        prepare(
            PrepareOptions(
                input=tuple(paths), output=str(tmp_path / output), **{"vocab": vocab, "workers": 1, **options}
            )
        )
        return tmp_path / output

    return make


def documents(folder):
    return [[sentence.ids.tolist() for sentence in document] for document in read_documents(folder)]


def reference(raw, tokenizer):
    """The rules in plain Python: documents of sentences of token ids."""
    found, document = [], []
    for line in [*raw.decode("utf-8").split("\n"), ""]:
        line = line.removesuffix("\r")
        if not line.strip():
            found += [document] if document else []
            document = []
        elif ids := tokenizer.encode(line):
            document.append(ids)
    return found


def file_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


FRAGMENTS = (
    *("a", "abc", "abcdefghabcdefgh", "中", "国", "é", "[MASK]", "[SEP]", "\U0001f600", "\u200b", "\ufeff"),
    *("\n", "\n\n", "\r\n", "\r\n\r\n", "\n \n", "\r", " ", "\t", "\u2028", "\x85", "\x00", "\x1c", "\u3000"),
)
TEXT = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=60).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT, chunk_bytes=st.sampled_from([5, 8, 13, 40, 1 << 19]))
def test_documents_and_sentences_follow_the_rules(text, chunk_bytes, tokenizer, vocab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    file = folder / "text.txt"
    file.write_bytes(text.encode())
    expected = reference(text.encode(), tokenizer)
    options = PrepareOptions(input=(str(file),), output=str(folder / "out"), vocab=vocab, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        # A chunk that ends inside a line is encoded in two parts, which is the same where no word is cut.
        patch.setattr(text_module, "CHUNK_BYTES", chunk_bytes)
        if not expected:
            with pytest.raises(UserError, match="holds no text"):
                prepare(options)
            return
        prepare(options)
    if chunk_bytes > len(text.encode()):
        assert documents(folder / "out") == expected
    else:
        assert [len(d) for d in documents(folder / "out")] == [len(d) for d in expected]


def test_word_starts_and_counts(make, tokenizer):
    folder = make({"t.txt": "abcde a\n中国 ab\n\nab\n".encode()})
    sentences = [sentence for document in read_documents(folder) for sentence in document]
    assert [s.word_starts.tolist() for s in sentences] == [
        [True, False, True],
        [True, True, True, False],
        [True, False],
    ]
    assert [s.first_of_document for s in sentences] == [True, False, True]
    data = open_folder(folder).data
    assert (data["tokens"], data["sentences"], data["documents"], data["unknown_tokens"]) == (9, 3, 2, 0)
    assert data["vocabulary_fingerprint"] == tokenizer.fingerprint.hex()


def test_several_files_and_gzip_end_documents(make):
    plain = make({"a.txt": b"a\nb", "b.txt": b"c\n", "c.txt": b""})
    assert [len(document) for document in read_documents(plain)] == [2, 1]
    zipped = make({"a.txt.gz": gzip.compress(b"a\nb"), "b.txt.gz": gzip.compress(b"c\n")}, "zipped")
    assert documents(zipped) == documents(plain)


def test_long_documents_and_sentences_are_cut(make, tokenizer):
    sentence = b"a " * 40_000  # over MAX_SENTENCE_TOKENS
    folder = make({"t.txt": b"a b\n\n" + sentence + b"\n" + b"b c d\n" * 40_000 + b"\n" + b"e\n"})
    lengths = [[len(s.ids) for s in document] for document in read_documents(folder)]
    total = sum(map(sum, lengths))
    assert total == 2 + 40_000 + 120_000 + 1
    assert lengths[0] == [2]
    assert lengths[1][:2] == [MAX_SENTENCE_TOKENS, 40_000 - MAX_SENTENCE_TOKENS]
    assert all(sum(document) <= MAX_PAGE_TOKENS for document in lengths)
    ids = np.concatenate([s.ids for s in read_sentences(open_folder(folder).shards[0])])
    assert ids.tolist() == tokenizer.encode("a b") + tokenizer.encode("a") * 40_000 + tokenizer.encode(
        "b c d"
    ) * 40_000 + [9]


@pytest.mark.parametrize("unit", ["abc de ", "中国", "中国abcdefgh, "], ids=["latin", "ideographs", "mixed"])
def test_a_line_of_many_chunks_is_one_line(make, tokenizer, unit):
    """Over a megabyte without a line end: the chunks it is read in leave no trace."""
    line = "a " + unit * (1_300_000 // len(unit.encode()))
    folder = make({"t.txt": f"ab\n{line}\r\nab\n".encode()})
    ids = np.concatenate([sentence.ids for document in read_documents(folder) for sentence in document])
    expected = [tokenizer.encode(text) for text in ("ab", line, "ab")]
    np.testing.assert_array_equal(ids, np.concatenate(expected))
    lengths = [len(sentence.ids) for document in read_documents(folder) for sentence in document]
    whole, rest = divmod(len(expected[1]), MAX_SENTENCE_TOKENS)
    assert lengths == [2, *[MAX_SENTENCE_TOKENS] * whole, rest, 2]


@pytest.fixture
def small_folder(tmp_path, make):
    """Two shards of a few pages over a vocabulary of 30 tokens: a few kilobytes in all."""
    return make({"t.txt": "abcde a\n中国 ab\n\nab [MASK]\nxyz\n".encode(), "u.txt": b"a\n\nb\n"}, shard_tokens=8)


def test_verify_accepts_what_prepare_wrote(small_folder, capsys):
    assert len(open_folder(small_folder).shards) == 2
    verify(VerifyOptions(data=str(small_folder)))
    assert "every byte is as it was written" in capsys.readouterr().out


def refused(folder, path, offset=None):
    with pytest.raises(UserError) as error:
        verify(VerifyOptions(data=str(folder)))
    assert str(path) in str(error.value)
    assert re.search(r"offset \d+", str(error.value))
    if offset is not None:
        assert f"offset {offset}:" in str(error.value)


ONE_BIT = tuple(1 << bit for bit in range(8))
slow = pytest.mark.slow


@pytest.mark.parametrize("masks", [ONE_BIT, pytest.param((0x01,), marks=slow), pytest.param((0xFF,), marks=slow)])
def test_every_changed_byte_is_refused_by_name(small_folder, masks):
    for path in small_folder.iterdir():
        content = path.read_bytes()
        for index in range(len(content)):
            changed = content[index] ^ masks[index % len(masks)]
            path.write_bytes(content[:index] + bytes([changed]) + content[index + 1 :])
            refused(small_folder, path)
        path.write_bytes(content)
    verify(VerifyOptions(data=str(small_folder)))


def test_every_truncation_is_refused_by_name(small_folder):
    for path in small_folder.iterdir():
        content = path.read_bytes()
        for size in range(len(content)):
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
        ("page", 0, 0xFF, "holds id 255 of"),
        ("page", 63, 1, "page's padding is not zero"),
        ("page", 65, 0xFF, "page's padding is not zero"),
        ("page", 127, 1, "page's padding is not zero"),
        ("ordinary_offset", 0, 0xFF, "ordinary ids"),
        ("ordinary_offset", 63, 1, "padding is not zero"),
        ("ordinary_offset", 127, 1, "padding is not zero"),
        ("lengths_offset", 0, 9, "lengths of a page"),
        ("lengths_offset", 1, 0, "lengths of a page"),
        ("lengths_offset", 63, 1, "padding is not zero"),
        ("table_offset", 63, 1, "padding is not zero"),
        ("header", 16, 1, "vocab_size"),
        ("header", 80, 1, "cls_id"),
        ("header", 104, 1, "vocabulary fingerprint"),
        ("header", 136, 1, "num_ordinary"),
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


def test_a_file_that_ends_with_its_chunk_ends_its_document(make, monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 8)
    folder = make({"a.txt": b"a b c d\n" * 3, "b.txt": b"e\n"})
    assert [len(document) for document in read_documents(folder)] == [3, 1]
