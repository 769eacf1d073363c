"""albert_fast.data.tokenizer: what BERT's tokenizer gives, from every source of a vocabulary."""

import json
from pathlib import Path

import pytest
import transformers

from albert_fast.data.tokenizer import SPECIAL_TOKENS, load_tokenizer, wordpiece_tokenizer
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
    assert ours._cache.encode_lines(lines[:1])[0].tolist() == expected[0]  # the fast path as the pipeline
    assert [e.ids for e in ours.text_backend.encode_batch(lines, add_special_tokens=False)] == expected
    again = tmp_path / "again"  # what was read is what is saved, in both files
    ours.save(again)
    (again / "tokenizer.json").unlink()
    assert [load_tokenizer(again).encode(line) for line in lines] == expected


def test_a_damaged_tokenizer_config_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(SMALL))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": ')
    with pytest.raises(UserError, match=r"tokenizer_config.*beside it cannot be read"):
        load_tokenizer(tmp_path)
