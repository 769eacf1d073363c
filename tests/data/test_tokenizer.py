"""albert_fast.data.tokenizer: what BERT's tokenizer gives, from every source of a vocabulary."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from albert_fast.data import wordpiece
from albert_fast.data.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer, wordpiece_tokenizer
from albert_fast.data.wordpiece import WordPieceCache
from albert_fast.options import UserError

ZH_VOCAB = Path(__file__).resolve().parents[3] / "shared/data/vocab.txt"
needs_zh = pytest.mark.skipif(not ZH_VOCAB.exists(), reason="the Chinese vocabulary is not beside the repository")
PIECES = [f"##{letter}" for letter in "abcdefghijkmnopqrst"]
SMALL = [*SPECIAL_TOKENS, "[unused1]", *"abcdefghm,[]", *PIECES, "mask", "MASK", "中", "国", "\u2028"]


@pytest.fixture(scope="module")
def small():
    return wordpiece_tokenizer(SMALL)


@needs_zh
def test_chinese_vocabulary_is_split_on_newlines_alone():
    tokenizer = load_tokenizer(ZH_VOCAB)
    assert tokenizer.vocab_size == 21128
    assert tokenizer.tokens[343] == "\u2028"
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    assert ids == (0, 100, 101, 102, 103)
    assert tokenizer.files()["vocab.txt"] == ZH_VOCAB.read_bytes()
    assert not tokenizer.is_ordinary[:104].any()  # [PAD], [unused1..99], and the other special tokens
    assert tokenizer.is_ordinary[104:].all()


@needs_zh
def test_encode_equals_transformers_bert_tokenizer(tmp_path):
    ours = load_tokenizer(ZH_VOCAB)
    (tmp_path / "vocab.txt").write_bytes(ZH_VOCAB.read_bytes())
    reference = transformers.BertTokenizer.from_pretrained(tmp_path, do_lower_case=True)
    text = "Été 2024，我们在 PyTorch 上預訓練ALBERT模型！\u3000ﬁn… don't naïve 한국어 Ωμέγα"  # noqa: RUF001
    assert ours.encode(text) == reference.encode(text, add_special_tokens=False)
    ids, types = ours.encode_pair("今天天气很好", "是的, it is", 64)
    expected = reference("今天天气很好", "是的, it is")
    assert (ids, types) == (expected["input_ids"], expected["token_type_ids"])


def test_literal_special_tokens_stay_text(small):
    ids = small.encode("[MASK] [SEP] a")
    assert not set(ids) & (small.special_ids - {small.unk_id})
    assert [small.tokens[i] for i in ids][:3] == ["[", "mask", "]"]


@pytest.mark.parametrize("lowercase", [True, False])
def test_lower_case_strips_accents(lowercase):
    tokens = [*SPECIAL_TOKENS, "e", "E", "é", "É"]
    tokenizer = wordpiece_tokenizer(tokens, lowercase)
    assert [tokenizer.tokens[i] for i in tokenizer.encode("É e")] == (["e", "e"] if lowercase else ["É", "e"])


def test_unigram_pieces_never_give_special_ids_and_words_follow_the_pre_tokenizer():
    pieces = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "\u2581ab", "c", "\u2581", "a", "b", "[", "]"]
    backend = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = Tokenizer(backend)
    ids, starts, lengths, _ = tokenizer.encode_lines(["ab abc [MASK]", "", "abc"])
    assert lengths.tolist() == [len(ids) - 2, 0, 2]
    tokens = [tokenizer.tokens[i] for i in ids]
    assert "[MASK]" not in tokens
    assert tokens[:3] == ["\u2581ab", "\u2581ab", "c"]
    assert starts[:3].tolist() == [True, True, False]
    assert starts[-2:].tolist() == [True, False]


@pytest.mark.parametrize("length_a", range(9))
@pytest.mark.parametrize("length_b", range(9))
def test_encode_pair_cuts_the_longer(small, length_a, length_b):
    for max_seq_length in range(3, 20):
        a, b = ["a"] * length_a, ["b"] * length_b
        while len(a) + len(b) > max_seq_length - 3:
            (a if len(a) > len(b) else b).pop()
        ids, types = small.encode_pair("a " * length_a, "b " * length_b, max_seq_length)
        assert [small.tokens[i] for i in ids] == ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
        assert types == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_encode_single(small):
    ids, types = small.encode_pair("a b c d", None, 4)
    assert [small.tokens[i] for i in ids] == ["[CLS]", "a", "b", "[SEP]"]
    assert types == [0] * 4


def test_saved_tokenizer_loads_here_and_in_transformers(small, tmp_path):
    small.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.files() == small.files()
    assert again.fingerprint == small.fingerprint
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    pair = theirs("ab, 中", "c")
    assert (pair["input_ids"], pair["token_type_ids"]) == small.encode_pair("ab, 中", "c", 64)
    assert (theirs.mask_token_id, theirs.pad_token_id, theirs.unk_token_id) == (4, 0, 1)


def test_from_vocab_file_alone(small, tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_bytes("\r\n".join(SMALL).encode())
    assert load_tokenizer(file).fingerprint == small.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n", r"lacks \[PAD\] \[UNK\] \[CLS\] \[SEP\] \[MASK\]"),
        (b"a\n\xff\n", "offset 2 is not UTF-8"),
    ],
    ids=["no-specials", "not-utf8"],
)
def test_bad_vocabularies_are_refused(tmp_path, content, message):
    file = tmp_path / "vocab.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(file)
    assert str(file) in str(error.value)


def test_bad_paths_and_json_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_tokenizer(tmp_path / "none.txt")
    with pytest.raises(UserError, match="neither"):
        load_tokenizer(tmp_path)
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"which is meant, a\.model or b\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="leave --lowercase out"):
        load_tokenizer(tmp_path, lowercase=True)


@pytest.mark.parametrize(
    "config",
    [
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
        {"do_lower_case": True, "strip_accents": None},
    ],
    ids=["keep-accents", "cased-no-accents", "no-ideograph-words", "null"],
)
def test_tokenizer_config_is_honoured_as_huggingface_does(tmp_path, config):
    pieces = [*SMALL, "möchte", "mochte", "Möchte", "é", "e", "중", *(f"##{c}" for c in "中国öoé")]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in dict.fromkeys(pieces)), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = load_tokenizer(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path)
    lines = ["Ich möchte gehen", "Möchte e\u0301 中国a中", "a中国 bé", "ab"]
    expected = [theirs.encode(line, add_special_tokens=False) for line in lines]
    assert [ours.encode(line) for line in lines] == expected
    assert from_cache(ours, lines) in (None, expected)
    assert from_cache(ours, lines[:1]) == expected[:1]
    again = tmp_path / "again"  # what was read is what is saved, in both files
    ours.save(again)
    (again / "tokenizer.json").unlink()
    assert [load_tokenizer(again).encode(line) for line in lines] == expected


def test_a_damaged_tokenizer_config_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(SMALL))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": ')
    with pytest.raises(UserError, match=r"tokenizer_config.*beside it cannot be read"):
        load_tokenizer(tmp_path)


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
