"""albert_fast.tokenizer and .vocabulary: what BERT's tokenizer gives, from every source of a vocabulary."""

import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers

from albert_fast.config import UserError
from albert_fast.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer, wordpiece_tokenizer
from albert_fast.vocabulary import train_vocabulary

ZH_VOCAB = Path(__file__).resolve().parents[2] / "shared/data/vocab.txt"
needs_zh = pytest.mark.skipif(not ZH_VOCAB.exists(), reason="the Chinese vocabulary is not beside the repository")
PIECES = [f"##{letter}" for letter in "abcdefghijkmnopqrst"]
SMALL = [*SPECIAL_TOKENS, "[unused1]", *"abcdefghm,[]", *PIECES, "mask", "MASK", "中", "国", "\u2028"]


@pytest.fixture(scope="module")
def small():
    return wordpiece_tokenizer(SMALL)


@pytest.fixture(scope="module")
def english_text(tmp_path_factory):
    from pydoc_data.topics import topics

    file = tmp_path_factory.mktemp("text") / "topics.txt"
    file.write_text("\n\n".join(topics.values()), encoding="utf-8")
    return file


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
    ids, starts, lengths = tokenizer.encode_lines(["ab abc [MASK]", "", "abc"])
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
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "line 7 repeats 'a' of line 6"),
        (b"[PAD]\n\n[UNK]\n", "line 2 is empty"),
        (b"a\nb\n", r"lacks \[PAD\] \[UNK\] \[CLS\] \[SEP\] \[MASK\]"),
        (b"a\n\xff\n", "offset 2 is not UTF-8"),
    ],
    ids=["repeated", "empty-line", "no-specials", "not-utf8"],
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
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="leave --lowercase out"):
        load_tokenizer(tmp_path, lowercase=True)


def test_vocabulary_is_the_same_in_every_process(english_text):
    code = (
        "import sys; from albert_fast.vocabulary import train_vocabulary;"
        "print(train_vocabulary([sys.argv[1]], 2000).fingerprint.hex())"
    )
    run = [sys.executable, "-c", code, str(english_text)]
    outputs = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    assert len(outputs) == 1


def test_trained_vocabulary_reads_its_text(english_text):
    tokenizer = train_vocabulary([str(english_text)], 2000)
    assert tokenizer.vocab_size == 2000
    assert tuple(tokenizer.tokens[:5]) == SPECIAL_TOKENS
    assert tokenizer.unk_id not in tokenizer.encode(english_text.read_text(encoding="utf-8"))
    assert {"the", "statement", "##ing"} <= set(tokenizer.tokens)


def test_training_refuses_nothing_and_too_little(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    with pytest.raises(UserError, match="holds no text"):
        train_vocabulary([str(empty)], 1000)
    with pytest.raises(UserError, match="train_vocab=10 is too small"):
        train_vocabulary([str(empty)], 10)
