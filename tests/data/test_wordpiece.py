"""albert_fast.data.wordpiece: the cache of whole words gives the ids of HuggingFace's pipeline on any text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albert_fast.data import wordpiece
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from albert_fast.data.wordpiece import WordPieceCache


@pytest.fixture(scope="module")
def small():
    pieces = [f"##{letter}" for letter in "abcdefghijkmnopqrst"]
    return wordpiece_tokenizer([*SPECIAL_TOKENS, *"abcdefghm,[]", *pieces, "mask", "中", "国"])


def from_huggingface(tokenizer, lines):
    encodings = tokenizer.text_backend.encode_batch_fast(lines, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def from_cache(tokenizer, lines):
    """None where the cache leaves the lines to HuggingFace."""
    encoded = tokenizer._cache.encode_lines(lines)
    if encoded is None:
        return None
    ids, lengths, _, _ = encoded
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def wide(request):
    """A vocabulary of every character below U+0600 and some ideographs, whole and inside words."""
    characters = [chr(i) for i in (*range(33, 0x600), *range(0x4E00, 0x4E80), *range(0x1100, 0x1200)) if chr(i).strip()]
    pieces = [*characters, *(f"##{c}" for c in characters), "ab", "##ba", "[MASK]]"]
    return wordpiece_tokenizer([*SPECIAL_TOKENS, *dict.fromkeys(pieces)], lowercase=request.param)


@settings(deadline=None)
@given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), min_size=1))
def test_cache_gives_huggingface_ids_on_any_text(wide, lines):
    assert from_cache(wide, lines) in (None, from_huggingface(wide, lines))


@settings(deadline=None)
@given(
    lines=st.lists(
        st.text("aAbBÀàéÉßßİ\u0131ǅΣ\u03c3ς \t\r\x00\x1c\x85\u2028\u3000,.!\u4e00\u4e01한\u0301\u0327ﬁ"), min_size=1
    )
)
def test_cache_gives_huggingface_ids_on_hard_letters(wide, lines):
    assert from_cache(wide, lines) == from_huggingface(wide, lines)


@pytest.mark.parametrize("plane", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_cache_knows_every_character(wide, plane):
    codes = (code for code in range(plane << 16, (plane + 1) << 16) if not 0xD800 <= code < 0xE000 and code != 10)
    lines = [f"ab{chr(code)}BA" for code in codes]
    cached = from_cache(wide, lines)
    if cached is None:  # some marks are HuggingFace's business; the others must agree one by one
        expected = from_huggingface(wide, lines)
        one_by_one = [from_cache(wide, [line]) for line in lines[:0x3000]]
        assert sum(ids is None for ids in one_by_one) < 300
        assert all(ids in (None, [right]) for ids, right in zip(one_by_one, expected, strict=False))
    else:
        assert cached == from_huggingface(wide, lines)


def test_cache_leaves_reordered_marks_to_huggingface(small):
    assert from_cache(small, ["a\u302e\u0301"]) is None
    assert small.encode("a\u302e\u0301") == from_huggingface(small, ["a\u302e\u0301"])[0]


def test_cache_is_bounded(small, monkeypatch):
    monkeypatch.setattr(wordpiece, "MAX_WORDS", 50)
    cache = WordPieceCache(small.text_backend)
    for i in range(100):
        lines = [" ".join(f"{'abcdefgh'[j % 8] * (1 + (i + j) % 9)}" for j in range(40)), "x" * 5000]
        ids, lengths, _, _ = cache.encode_lines(lines)
        expected = from_huggingface(small, lines)
        assert (ids.tolist(), lengths.tolist()) == ([i for e in expected for i in e], [len(e) for e in expected])
        assert len(cache._words.begins) < 50 + 60


@settings(deadline=None)
@given(
    lines=st.lists(st.text("ab \t,中国\u4e01\uf900\U0002b820\U00020000é", max_size=12), min_size=1),
    length=st.integers(1, 3),
)
def test_segmented_words_are_the_same_with_and_without_the_cache(wide, lines, length):
    def segment(line):
        return [line[i : i + length] for i in range(0, len(line), length)]

    plain = Tokenizer(wide.backend)
    plain.__dict__["_cache"] = None
    arrays = zip(wide.encode_lines(lines, segment)[:3], plain.encode_lines(lines, segment)[:3], strict=True)
    for cached, expected in arrays:
        np.testing.assert_array_equal(cached, expected)
    ids, starts, _, _ = wide.encode_lines(["中国中国", "a中"], segment)
    if length == 2:
        assert starts.tolist() == [True, ids[1] == wide.unk_id, True, ids[1] == wide.unk_id, True, False]
