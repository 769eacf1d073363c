"""Input files to chunks and lines: cuts between documents, JSON lines, and text that is damaged."""

import gzip
import json
import random

import pytest
from support.preparing import VOCABULARY, corpus, documents, run, write

from albert_fast.data import text as text_module
from albert_fast.data.input_files import InputFile
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.data.verify import VerifyOptions, verify
from albert_fast.options import UserError


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_share_the_documents(tmp_path, vocab, small_chunks, newline, parts):
    inputs = [write(tmp_path / f"{i}.txt", corpus(10 + i, documents=9 * i, newline=newline)) for i in range(4)]
    run(inputs, tmp_path / "whole", vocab)
    order = list(range(1, parts + 1))
    random.Random(parts).shuffle(order)
    for part in order:
        assert not (tmp_path / "parts/manifest.json").exists()
        manifest = run(inputs, tmp_path / "parts", vocab, part=f"{part}/{parts}")
    assert manifest is not None
    verify(VerifyOptions(data=str(tmp_path / "parts")))
    assert documents(tmp_path / "parts") == documents(tmp_path / "whole")
    again = run(inputs, tmp_path / "parts", vocab, part=f"{order[0]}/{parts}")
    assert again == manifest


@pytest.mark.parametrize("seed", range(40))
def test_every_cut_of_a_file_keeps_documents_whole(tmp_path, seed):
    """The spans of the parts tile the file and every one begins where a document may."""
    rng = random.Random(seed)
    content = "".join(rng.choice(("a", "b c", "\n", "\n\n", "\r\n", " ", "\n \n")) for _ in range(40)).encode()
    path = write(tmp_path / "t.txt", content)
    for parts in (1, 2, 3, 5, 8, len(content) + 3):
        spans = [
            s for part in range(1, parts + 1) for s in text_module.part_spans((InputFile(str(path)),), part, parts)
        ]
        assert [s.start for s in spans] == [0, *(s.end for s in spans[:-1])][: len(spans)]
        assert spans[-1].end == len(content)
        for span in spans[1:]:
            before = content[: span.start]
            assert before.endswith(b"\n")
            assert not before[:-1].rpartition(b"\n")[2].strip()  # the line before is blank


def test_json_lines(tmp_path, vocab, small_chunks):
    texts = ["ab cd\n\n \r\nef\r\ngh", "a", "", "我们\u2028在 \ud800", "b" * 900 + " c"]
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    lines[0] = json.dumps({"id": 0, "text": texts[0].split("\n")})  # a list of lines, as tables may hold
    plain = write(tmp_path / "t.jsonl", "\n".join([*lines[:2], " ", *lines[2:]]).encode())
    zipped = write(tmp_path / "t.jsonl.gz", gzip.compress(plain.read_bytes() + b"\n"))
    run([plain], tmp_path / "plain", vocab, json_field="text")
    run([zipped], tmp_path / "zipped", vocab, json_field="text", workers=2)
    tokenizer = wordpiece_tokenizer(VOCABULARY)
    expected = [["ab cd", "ef", "gh"], ["a"], ["我们\u2028在 \ufffd"], ["b" * 900 + " c"]]
    assert documents(tmp_path / "plain") == [[tokenizer.encode(line) for line in document] for document in expected]
    assert documents(tmp_path / "zipped") == documents(tmp_path / "plain")
    for part in (1, 2, 3):
        run([plain], tmp_path / "parts", vocab, json_field="text", part=f"{part}/3")
    assert documents(tmp_path / "parts") == documents(tmp_path / "plain")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', r"line 2 \(offset 14\): not a JSON object"),
        (b'{"text": "a"}\n{"body": "a"}\n', r"line 2 .*no field 'text' \(found: body\)"),
        (b"[1]\n", "line 1 .*no field 'text'"),
        (b'{"text": 7}\n', "line 1 .*holds int, not a string"),
        (b'{"text": ["a", 7]}\n', "line 1 .*holds list, not a string or a list of them"),
        (b"[" * 100_000 + b"\n", "line 1 .*not a JSON object"),
    ],
    ids=["cut", "other-field", "list", "number", "mixed", "deep"],
)
def test_bad_json_lines_are_named(tmp_path, vocab, content, message):
    source = write(tmp_path / "t.jsonl", content)
    with pytest.raises(UserError, match=message):
        run([source], tmp_path / "out", vocab, json_field="text")
