"""Tokenizers from their files: as HuggingFace reads them, or refused by name."""

import json

import pytest
import transformers

from albert_fast.data.load_tokenizer import load_tokenizer, wordpiece_tokenizer
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.options import UserError

PIECES = [f"##{letter}" for letter in "abcdefghijkmnopqrst"]
SMALL = [*SPECIAL_TOKENS, *"abcdefghm,[]", *PIECES, "中", "国"]


def test_from_vocab_file_alone(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_bytes("\r\n".join(SMALL).encode())
    assert load_tokenizer(file).fingerprint == wordpiece_tokenizer(SMALL).fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a\nb\n", r"lacks \[PAD\] \[UNK\] \[CLS\] \[SEP\] \[MASK\]"), (b"a\n\xff\n", "offset 2 is not UTF-8")],
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
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"which is meant, a\.model or b\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="omit --lowercase"):
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
    with pytest.raises(UserError, match=r"tokenizer_config.*next to it cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": "false"}')
    with pytest.raises(UserError, match="beside it: do_lower_case='false' must be true or false"):
        load_tokenizer(tmp_path)
