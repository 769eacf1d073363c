"""What BERT's tokenizer gives, pairs that fit, and what is saved."""

from pathlib import Path

import pytest
import transformers

from albert_fast.data.load_tokenizer import load_tokenizer, wordpiece_tokenizer
from albert_fast.data.tokenizer import SPECIAL_TOKENS

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
