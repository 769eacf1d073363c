"""albert_fast.data.sentences: paragraphs of any script to sentences, and prepare --split_sentences."""

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.preparing import run

from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.sentences import sentences
from albert_fast.data.shards import read_documents
from albert_fast.options import UserError

pytest.importorskip("icu4py")


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        (
            "Mr. Ab went on Jan. 5. He paid 3.50 euros! Why?",
            ["Mr. Ab went on Jan. 5. ", "He paid 3.50 euros! ", "Why?"],
        ),
        ("他说：“好。”然后走了！真的吗？是的……好。", ["他说：“好。”", "然后走了！", "真的吗？", "是的……好。"]),  # noqa: RUF001
        ("「はい。」と言った。今日は。", ["「はい。」", "と言った。", "今日は。"]),
        ("안녕하세요. 저는 학생입니다.", ["안녕하세요. ", "저는 학생입니다."]),
        ("😀 Hi. 🙂 B! c", ["😀 Hi. ", "🙂 B! ", "c"]),
    ],
    ids=["english", "chinese", "japanese", "korean", "beyond-the-basic-plane"],
)
def test_sentences_of_every_script(paragraph, expected):
    assert sentences([paragraph]) == expected


@settings(deadline=None)
@given(st.lists(st.text("aB.!? \t\r\u2028。”😀(Mr", max_size=12), min_size=1))
def test_paragraphs_together_give_what_each_gives_alone(paragraphs):
    assert sentences(paragraphs) == [piece for paragraph in paragraphs for piece in sentences([paragraph])]
    assert "".join(sentences(paragraphs)) == "".join(paragraphs)


def test_an_abbreviation_at_a_lines_end_ends_its_sentence_and_empty_lines_stay():
    assert sentences(["He is a Dr.", "Mr.", "", "Ab.", ""]) == ["He is a Dr.", "Mr.", "", "Ab.", ""]


def test_prepare_cuts_paragraphs_into_the_same_sentences_for_any_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("albert_fast.data.text.CHUNK_BYTES", 120)
    text = "Mr. Ab said: “Go!” He went. 他说：“好。”然后走了！\nb a.\n\nOne. Two?\n\n" * 9  # noqa: RUF001
    text += "This is a long sentence, and " * 20 + "it ends. So."  # of several chunks
    (tmp_path / "a.txt").write_text(text)
    folders = [tmp_path / str(workers) for workers in (1, 2)]
    for workers, folder in enumerate(folders, 1):
        options = {"train_vocab": 90, "split_sentences": True, "workers": workers, "shard_tokens": 100}
        run([tmp_path / "a.txt"], folder, None, **options)
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]
    assert len(contents[0]) > 6
    tokenizer = load_tokenizer(folders[0])
    found = [[tokenizer.decode(s.ids.tolist()) for s in document] for document in read_documents(folders[0])]
    assert [len(document) for document in found] == [5, 2] * 9 + [2]
    assert found[0][0] == "mr. ab said : “ go! ”"
    assert re.fullmatch(r"(this is a long sentence, and ){20}it ends\.", found[-1][0])


def test_without_the_package_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "icu4py", None)
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"icu4py; pip install 'albert-fast\[corpora\]'"):
        run([tmp_path / "a.txt"], tmp_path / "o", None, train_vocab=90, split_sentences=True)
