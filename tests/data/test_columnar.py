"""Parquet, Arrow and the folders of HuggingFace's datasets, prepared as the text they hold."""

import json
from pathlib import Path

import pytest
from support import preparing
from support.preparing import documents, write

from albert_fast.data.input_files import input_files
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.options import UserError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

DOCUMENTS = [f"a b{i % 3}.\n\n c {i}.\r\nb." for i in range(700)] + [None, "", " \n", "c."]
TITLES = [f"b {i}" for i in range(len(DOCUMENTS))]
VOCABULARY = [*SPECIAL_TOKENS, *"abc.0123456789", *(f"##{i}" for i in range(10))]


def table():
    return pa.table({"id": range(len(DOCUMENTS)), "title": TITLES, "text": DOCUMENTS})


def write_arrow_stream(path, content, rows=50):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=rows)


def as_text(rows):
    lines = ["\n".join(line for text in row if text for line in text.replace("\r", "").split("\n")) for row in rows]
    return "\n\n".join("\n".join(line for line in text.split("\n") if line.strip()) for text in lines) + "\n"


def run(inputs, output, **options):
    vocab = write(Path(output).parent / "vocab.txt", "\n".join(VOCABULARY).encode())
    return preparing.run(inputs, output, str(vocab), **options)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "dataset", "feather", "list"])
def test_a_table_is_prepared_as_its_text_is(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("albert_fast.data.text.CHUNK_BYTES", 2048)
    (tmp_path / "text.txt").write_text(as_text((text,) for text in DOCUMENTS))
    run([tmp_path / "text.txt"], tmp_path / "expected")
    path, content = tmp_path / f"data.{kind}", table()
    if kind == "parquet":
        parquet.write_table(content, path, row_group_size=64)
    elif kind == "arrow":
        write_arrow_stream(path, content)
    elif kind == "feather":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, content.schema) as writer:
            writer.write_table(content, max_chunksize=50)
    elif kind == "list":  # of a document's sentences
        column = [text.split("\n") if text else text for text in DOCUMENTS]
        parquet.write_table(content.set_column(2, "text", pa.array(column, pa.list_(pa.string()))), path)
    else:  # as Dataset.save_to_disk leaves it
        path.mkdir()
        write_arrow_stream(path / "data-00000-of-00002.arrow", content.slice(0, 300))
        write_arrow_stream(path / "data-00001-of-00002.arrow", content.slice(300))
        names = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]
        (path / "state.json").write_text(json.dumps({"_data_files": names}))
        (path / "dataset_info.json").write_text("{}")
    run([path], tmp_path / "out", columns=("text",), workers=2)
    assert len(list((tmp_path / "out").glob("shard-*.bin"))) > 3
    assert documents(tmp_path / "out") == documents(tmp_path / "expected")


def test_parts_enter_tables_at_groups_of_rows_and_hold_every_document_once(tmp_path):
    parquet.write_table(table(), tmp_path / "a.parquet", row_group_size=64)
    write_arrow_stream(tmp_path / "b.arrow", table())
    inputs = [tmp_path / "a.parquet", tmp_path / "b.arrow"]
    whole = run(inputs, tmp_path / "whole", columns=("title", "text"))
    runs = [run(inputs, tmp_path / "parts", part=f"{i}/3", columns=("title", "text")) for i in (3, 1, 2)]
    manifest = runs[-1]
    assert manifest.data["documents"] == whole.data["documents"] == 2 * len(DOCUMENTS)
    assert manifest.tokens == whole.tokens
    tokens = [sum(s["tokens"] for s in manifest.data["shards"] if f"-000{i}-" in s["file"]) for i in (1, 2, 3)]
    assert min(tokens) > 0.15 * whole.tokens  # shares are of bytes on the disk, where Parquet is smaller


def test_which_columns_are_meant_is_asked_where_it_is_not_clear(tmp_path):
    path = tmp_path / "a.parquet"

    def columns_of(content, columns=()):
        parquet.write_table(content, path)
        return input_files((str(path),), columns=columns)[0].columns

    assert columns_of(table()) == ("text",)
    assert columns_of(pa.table({"id": [1], "body": ["a"]})) == ("body",)
    cases = [
        (pa.table({"title": ["a"], "body": ["a"]}), (), r"which columns .*found: title, body"),
        (pa.table({"raw": [b"a"]}), (), r"no column holds text \(found: raw\); write it as strings"),
        (table(), ("body",), r"no column 'body' \(found: id, title, text\)"),
        (table(), ("id",), "'id' holds no text; those that do: title, text"),
    ]
    for content, columns, message in cases:
        with pytest.raises(UserError, match=message):
            columns_of(content, columns)
    with pytest.raises(UserError, match="name its text with --columns"):
        input_files((str(path),), json_field="text")


def test_damage_and_misuse_are_one_line(tmp_path):
    parquet.write_table(table(), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-20])
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"cut\.parquet: damaged"):
        input_files((str(tmp_path / "cut.parquet"),))
    with pytest.raises(UserError, match="no input is Parquet or Arrow"):
        input_files((str(tmp_path / "a.txt"),), columns=("text",))
    for split in ("train", "test"):
        (tmp_path / "all" / split).mkdir(parents=True)
        (tmp_path / "all" / split / "state.json").write_text("{}")
    (tmp_path / "all" / "dataset_dict.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds the splits .*all/test, .*all/train"):
        run([tmp_path / "all"], tmp_path / "out")
