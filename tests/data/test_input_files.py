"""albert_fast.data.input_files: what a file is, told by its content; folders, standard input, compression."""

import gzip
import importlib
import io
import json
import sys

import pytest

from albert_fast.data.input_files import InputFile, expand, input_files
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.text import Position, chunk_lines, ends_document, part_spans, read_chunks
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.options import UserError

OBJECT = json.dumps({"id": 1, "title": "a", "text": 'b "c" {d}\n\ne'})
WIKI = "".join(
    f'<doc id="{i}" url="https://x/?curid={i}" title="A > {i}">\nA {i}\n\nb c.\nd.\n</doc>\n' for i in range(9)
)


def write(path, text):
    path.write_bytes(text.encode())
    return str(path)


def documents_of(files, parts=1):
    """The lines of the documents of every part, as the lines' layout says."""
    documents = []
    for part in range(1, parts + 1):
        spans = part_spans(files, part, parts)
        for chunk in read_chunks(spans, Position(0, spans[0].start)) if spans else ():
            if chunk.begins_span:
                documents.append([])
            for line in chunk_lines(chunk, None):
                documents[-1].append(line) if not ends_document(line, chunk.layout) else documents.append([])
    return [kept for lines in documents if (kept := [line for line in lines if line.strip()])]


@pytest.mark.parametrize("name", ["news_valid.json", "wiki_00", "corpus.txt"])
@pytest.mark.parametrize("begin", ["", "\ufeff", "\n \n"], ids=["", "bom", "blank-lines"])
def test_json_lines_want_a_field_whatever_the_file_is_called(tmp_path, name, begin):
    path = write(tmp_path / name, begin + f"{OBJECT}\n{OBJECT}\n")
    with pytest.raises(UserError, match=r"is JSON lines|--json_field \(found: id, title, text\)"):
        input_files((path,))
    assert input_files((path,), "text")[0].layout == "json"


def test_json_lines_in_gzip_or_longer_than_the_head_are_seen(tmp_path):
    packed = tmp_path / "corpus"
    packed.write_bytes(gzip.compress(OBJECT.encode()))
    long = write(tmp_path / "long.txt", json.dumps({"body": "a" * 100_000, "id": 1}))
    for path, found in ((str(packed), "id, title, text"), (long, "body, ...")):
        with pytest.raises(UserError, match=rf"--json_field \(found: {found}"):
            input_files((path,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[{OBJECT}, {OBJECT}]", "JSON array"),
        (json.dumps([json.loads(OBJECT)] * 3, indent=1), "JSON array"),
        (json.dumps([{"text": "a" * 50}] * 5000), "JSON array"),
        ('["a", "b"]\n["c"]\n', "JSON array"),
        ("a b.\rc.\r\rd.\r", "old Mac line ends .* tr"),
        (json.dumps(json.loads(OBJECT), indent=2), "several lines .first field: id"),
        ("PK\x03\x04 and so on", "is a zip archive, a spreadsheet or an office document; give the text in it"),
        ("\ufeff<!DOCTYPE HTML><p>a", "is HTML; give its text"),
        ("<mediawiki xmlns='x'>\n<page>", "is a dump of a wiki; take the text out of it with WikiExtractor"),
        ("a.txt".ljust(257, "\0") + "ustar", "is a tar archive; unpack it"),
    ],
    ids=["one-line", "indented", "long", "strings", "carriage-returns", "object", "zip", "html", "wiki", "tar"],
)
def test_what_is_no_lines_of_text_is_called_by_its_name(tmp_path, text, message):
    path = write(tmp_path / "a.txt", text)
    for json_field in (None, "text") if message == "JSON array" else (None,):
        with pytest.raises(UserError, match=message):
            input_files((path,), json_field)


@pytest.mark.parametrize(
    "text", ["[1] Smith wrote this.\n", '["Go!" he said]\n', "{a} is a set.\n", "[MASK]\n", '"a": b\n', "<document>\n"]
)
def test_prose_that_looks_a_little_like_json_is_prose(tmp_path, text):
    assert input_files((write(tmp_path / "a.txt", text),))[0].layout == "lines"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("parts", [1, 2, 5, 40])
def test_documents_of_wikiextractor_end_at_its_tags_alone(tmp_path, newline, parts, monkeypatch):
    monkeypatch.setattr("albert_fast.data.text.CHUNK_BYTES", 90)
    file = input_files((write(tmp_path / "wiki_00", WIKI.replace("\n", newline)),))
    assert documents_of(file, parts) == [[f"A {i}", "b c.", "d."] for i in range(9)]


def test_wikiextractor_tags_inside_other_text_end_documents_too(tmp_path):
    file = input_files((write(tmp_path / "all.txt", "before\n" + WIKI),))
    assert file[0].layout == "lines"
    assert documents_of(file)[:3] == [["before"], ["A 0"], ["b c.", "d."]]


def test_folders_give_their_files_in_order(tmp_path):
    for name in ("B/wiki_01", "A/wiki_00", "A/.hidden", ".git/config"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "in" / name, "a\n")
    found = expand((str(tmp_path / "in"),), tmp_path / "out")
    assert [path.removeprefix(f"{tmp_path}/in/") for path in found] == ["A/wiki_00", "B/wiki_01"]
    with pytest.raises(UserError, match="given twice"):
        expand((str(tmp_path / "in"), found[0]), tmp_path / "out")


@pytest.mark.parametrize("module", ["bz2", "lzma"])
def test_other_compressions_are_named(tmp_path, module):
    (tmp_path / "a").write_bytes(importlib.import_module(module).compress(b"a b.\n"))
    with pytest.raises(UserError, match=r"is compressed by (bzip2|xz); unpack it"):
        input_files((str(tmp_path / "a"),))


def test_what_lies_beside_a_corpus_is_left_out(tmp_path, capsys):
    for name in ("data/a.txt", "README.md", "LICENSE", "dataset_infos.json", "readme-of-a-book.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "in" / name, "a\n")
    found = expand((str(tmp_path / "in"),), tmp_path / "out")
    assert [path.removeprefix(f"{tmp_path}/in/") for path in found] == ["data/a.txt", "readme-of-a-book.txt"]
    assert "left out LICENSE, README.md, dataset_infos.json\n" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(found[0])
    with pytest.raises(UserError, match="link is given twice"):
        expand((found[0], str(tmp_path / "link")), tmp_path / "out")


def test_splits_of_a_dataset_are_asked_for(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "in" / split).mkdir(parents=True)
        for name in ("state.json", "dataset_info.json"):
            write(tmp_path / "in" / split / name, "{}")
    with pytest.raises(UserError, match=r"splits of a dataset; name those that are meant: \S*in/test, \S*in/train"):
        expand((str(tmp_path / "in"),), tmp_path / "out")


def test_standard_input_is_prepared_as_a_file_is(tmp_path, monkeypatch):
    text = b"a b.\nb.\n\na.\n"
    vocab = write(tmp_path / "vocab.txt", "\n".join([*SPECIAL_TOKENS, "a", "b", "."]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    options = {"vocab": vocab, "workers": 1}
    prepare(PrepareOptions(input=("-",), output=str(tmp_path / "out"), **options))
    (tmp_path / "a.txt").write_bytes(text)
    prepare(PrepareOptions(input=(str(tmp_path / "a.txt"),), output=str(tmp_path / "file"), **options))
    assert [path.name for path in (tmp_path / "out").glob("*.partial")] == []
    for name in ("shard-00000.bin", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()
    with pytest.raises(UserError, match="in place of -"):
        prepare(PrepareOptions(input=("-",), output=str(tmp_path / "part"), part="1/2", **options))


@pytest.mark.parametrize("suffix", [".zst", ""])
def test_zstd_is_text_and_its_damage_is_told(tmp_path, suffix):
    zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    text = b"".join(b"line %d\n" % i for i in range(5000))
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(zstd.compress(text[:20_000]) + zstd.compress(text[20_000:]))
    file = InputFile(str(path))
    for offset in (0, 3, 30_000):
        with file.open(offset) as stream:
            assert stream.read(-1) == text[offset:]
    assert [span.path for part in (1, 2, 3) for span in part_spans((file,), part, 3)] == [str(path)]
    path.write_bytes(path.read_bytes()[:-4])
    with file.open() as stream, pytest.raises(UserError, match=r"a\.txt.*damaged or truncated zstd"):
        stream.read(-1)
