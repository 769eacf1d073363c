"""prepare and the plain reader: what every line of text becomes, whatever is in it."""

import gzip

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.preparing import documents

from albert_fast.data import text as text_module
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.data.manifest import open_folder
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.shards import MAX_PAGE_TOKENS, MAX_SENTENCE_TOKENS, read_documents, read_sentences
from albert_fast.data.tokenizer import SPECIAL_TOKENS
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
            (tmp_path / name).write_bytes(content)
            paths.append(str(tmp_path / name))
        given = {"vocab": vocab, "workers": 1, **options}
        prepare(PrepareOptions(input=tuple(paths), output=str(tmp_path / output), **given))
        return tmp_path / output

    return make


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
        head = text.lstrip("\ufeff \t\r\n")
        if head.count("\r") > 2 and "\n" not in head:
            with pytest.raises(UserError, match="old Mac line ends"):
                prepare(options)
            return
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


def test_a_file_that_ends_with_its_chunk_ends_its_document(make, monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 8)
    folder = make({"a.txt": b"a b c d\n" * 3, "b.txt": b"e\n"})
    assert [len(document) for document in read_documents(folder)] == [3, 1]
