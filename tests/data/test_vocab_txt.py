"""albert_fast.data.vocab_txt: ids stay those of the published file, whatever its lines look like."""

import re

import pytest
import transformers

from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.data.vocab_txt import read_vocab_txt
from albert_fast.options import UserError

LINES = [*SPECIAL_TOKENS, "天", "地", "人", "\u3000", "\u2028", "你", "##你"]
EMPTY = [*LINES[:8], "", "", *LINES[8:]]
REPEATED = [*LINES, "天", "##你", "好"]
TEXT = "天地人好 你 你我他 人天"


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ("\n".join(LINES), ""),
        ("".join(f"{token}\r\n" for token in LINES), ""),
        ("".join(f"{token}\n" for token in EMPTY), "line 9, 10 is empty"),
        ("".join(f"{token}\n" for token in LINES) + "\n\n", ""),
        ("".join(f"{token}\n" for token in REPEATED), "line 13 repeats '天' of line 6"),
        ("".join(f"{token} \n" for token in LINES), "blanks around tokens"),
        ("".join(f"{token}\t\r\n" for token in LINES), "blanks around tokens"),
    ],
    ids=["plain", "crlf", "empty", "trailing-blank", "repeated", "space", "tab-crlf"],
)
def test_ids_are_those_that_huggingface_reads(tmp_path, content, remark, capsys):
    file = tmp_path / "vocab.txt"
    file.write_bytes(content.encode())
    ours, theirs = load_tokenizer(file), transformers.BertTokenizer.from_pretrained(tmp_path)
    assert ours.encode(TEXT) == theirs.encode(TEXT, add_special_tokens=False)
    notes = capsys.readouterr().err
    assert re.search(f"{remark}.*; ids are kept as published", notes) if remark else not notes
    ours.save(tmp_path / "saved")  # and they stay so in both files that are saved
    again = load_tokenizer(tmp_path / "saved")
    assert (again.encode(TEXT), again.fingerprint) == (ours.encode(TEXT), ours.fingerprint)
    (tmp_path / "saved" / "tokenizer.json").unlink()
    assert load_tokenizer(tmp_path / "saved").encode(TEXT) == ours.encode(TEXT)


def test_an_id_without_a_token_is_never_drawn_nor_written(tmp_path):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in REPEATED), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == len(REPEATED)
    assert [i for i, token in enumerate(tokenizer.tokens) if not token] == [5, 11]
    assert not tokenizer.is_ordinary[[5, 11]].any()
    assert tokenizer.encode("天")[0] == 12


@pytest.mark.parametrize("separator", ["\t", " "])
def test_numbers_beside_tokens_are_their_ids_or_their_counts(separator):
    by_id = [f"{token}{separator}{number}" for number, token in reversed(list(enumerate(SPECIAL_TOKENS)))]
    assert read_vocab_txt("\n".join(by_id))[0] == list(SPECIAL_TOKENS)
    counts = [f"{token}{separator}{90 - 7 * number}" for number, token in enumerate(SPECIAL_TOKENS)]
    tokens, remarks = read_vocab_txt("\n".join(counts))
    assert tokens == list(SPECIAL_TOKENS)
    assert "that is not its id" in remarks[0]


def test_sentencepieces_list_is_refused_with_the_remedy():
    for text in ("<pad>\t0\n<unk>\t0\n\u2581a\t-2.3\n", "<unk>\t0\na\t-3\n"):
        with pytest.raises(UserError, match=r"\.vocab file; give the \.model"):
            read_vocab_txt(text)


def test_old_mac_line_ends_are_named():
    with pytest.raises(UserError, match=r"old Mac line ends \(CR only\)"):
        read_vocab_txt("\r".join(LINES))
