"""albert_fast.data.vocabulary: a WordPiece vocabulary of the text, for every script and the same each time."""

import subprocess
import sys

import pytest

from albert_fast.data.input_files import input_files
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.data.vocabulary import train_vocabulary
from albert_fast.options import UserError


@pytest.fixture(scope="module")
def english_text(tmp_path_factory):
    from pydoc_data.topics import topics

    file = tmp_path_factory.mktemp("text") / "topics.txt"
    file.write_text("\n\n".join(topics.values()), encoding="utf-8")
    return file


def train(tmp_path, text, **options):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    return train_vocabulary(input_files((str(tmp_path / "a.txt"),)), 200, **options)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("パンダが好きです。かぎをかけてください。\n", "がパダでぎ"),
        ("한국어 문장입니다. 학생이 학교에 갑니다.\n", "한국어"),
    ],
    ids=["japanese", "korean"],
)
def test_marks_of_kana_and_hangul_are_kept(tmp_path, capsys, text, kept):
    tokenizer = train(tmp_path, text * 20)
    assert set(kept) <= {c for token in tokenizer.tokens for c in token}
    assert tokenizer.decode(tokenizer.encode(text.strip())).replace(" ", "") == text.strip().replace(" ", "")
    assert "marks are kept" in capsys.readouterr().err
    tokenizer.save(tmp_path / "saved")  # and so it stays
    assert load_tokenizer(tmp_path / "saved" / "vocab.txt").encode(text) == tokenizer.encode(text)
    stripped = train(tmp_path, text * 20, strip_accents=True)
    assert not set(kept) <= {c for token in stripped.tokens for c in token}


def test_accents_of_other_text_are_stripped_as_bert_does(tmp_path, capsys):
    tokenizer = train(tmp_path, "Été à Genève, naïve.\n" * 30 + "한 が\n")
    assert {"e", "a"} <= set("".join(tokenizer.tokens))
    assert not set("éèàï") & set("".join(tokenizer.tokens))
    assert "marks" not in capsys.readouterr().err
    assert set("éèàï") <= set("".join(train(tmp_path, "Été à Genève, naïve.\n" * 30, strip_accents=False).tokens))


def test_vocabulary_is_the_same_in_every_process(english_text):
    code = (
        "import sys; from albert_fast.data.vocabulary import train_vocabulary;"
        "from albert_fast.data.input_files import input_files;"
        "print(train_vocabulary(input_files((sys.argv[1],)), 2000).fingerprint.hex())"
    )
    run = [sys.executable, "-c", code, str(english_text)]
    outputs = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    assert len(outputs) == 1


def test_trained_vocabulary_reads_its_text(english_text):
    tokenizer = train_vocabulary(input_files((str(english_text),)), 2000)
    assert tokenizer.vocab_size == 2000
    assert tuple(tokenizer.tokens[:5]) == SPECIAL_TOKENS
    assert tokenizer.unk_id not in tokenizer.encode(english_text.read_text(encoding="utf-8"))
    assert {"the", "statement", "##ing"} <= set(tokenizer.tokens)


def test_training_refuses_nothing_and_too_little(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    with pytest.raises(UserError, match="holds no text"):
        train_vocabulary(input_files((str(empty),)), 1000)
    with pytest.raises(UserError, match="train_vocab=10 is too small"):
        train_vocabulary(input_files((str(empty),)), 10)
