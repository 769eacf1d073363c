"""prepare as a job: every kind of input, and every way it can be wrong."""

import gzip
import os
import signal
import subprocess
import sys
import time

import pytest
from support.preparing import corpus, run, write

from albert_fast.data.batches import PretrainingLoader
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.data.shards import read_documents
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.data.verify import VerifyOptions, verify
from albert_fast.options import UserError


def test_ids_of_four_bytes(tmp_path):
    """A vocabulary of over 65,536 tokens, read back by the plain reader and by the loader."""
    tokens = [*SPECIAL_TOKENS, *(f"##{i}" for i in range(65_600)), *(f"z{i}" for i in range(300))]
    wordpiece_tokenizer(tokens).save(tmp_path / "vocab")
    source = write(tmp_path / "t.txt", b"z1 z2 z299\nz3 z4 z5\n" * 50)
    run([source], tmp_path / "out", str(tmp_path / "vocab/vocab.txt"))
    verify(VerifyOptions(data=str(tmp_path / "out")))
    (document,) = read_documents(tmp_path / "out")
    first = 5 + 65_600
    assert [(s.ids - first).tolist() for s in document[:2]] == [[1, 2, 299], [3, 4, 5]]
    with PretrainingLoader(tmp_path / "out", tokens_per_batch=64, max_seq_length=32, seed=1) as loader:
        batch = next(loader)
    assert set(batch.masked_lm_ids[batch.masked_lm_weights > 0]) <= {first + i for i in (1, 2, 299, 3, 4, 5)}


def test_trained_vocabulary(tmp_path, small_chunks):
    source = write(tmp_path / "t.txt", corpus(6))
    manifest = run([source], tmp_path / "out", None, train_vocab=60)
    assert manifest.data["vocab_size"] == 60
    assert run([source], tmp_path / "out", None, train_vocab=60) == manifest
    with pytest.raises(UserError, match="train_vocab"):
        run([source], tmp_path / "out", None, train_vocab=61)


def test_finished_folder_is_left_alone(tmp_path, vocab, capsys):
    source = write(tmp_path / "t.txt", corpus(7))
    manifest = run([source], tmp_path / "out", vocab)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert run([source], tmp_path / "out", vocab, workers=2) == manifest
    assert "already prepared" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    for options, word in (({"shard_tokens": 701}, "shard_tokens"), ({"lowercase": False}, "vocab_crc32c")):
        with pytest.raises(UserError, match=word):
            run([source], tmp_path / "out", vocab, **options)
    source.write_bytes(source.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(UserError, match="is not the text that"):
        run([source], tmp_path / "out", vocab)
    source.write_bytes(source.read_bytes() + b"a")
    with pytest.raises(UserError, match="input="):
        run([source], tmp_path / "out", vocab)


def test_a_fixed_text_starts_over_where_no_shard_is_finished(tmp_path, vocab):
    source = write(tmp_path / "t.txt", b"a\n\xff\n")
    with pytest.raises(UserError, match=r"t\.txt line 2 \(offset 2\): byte 0xff is not valid UTF-8"):
        run([source], tmp_path / "out", vocab)
    source.write_bytes(b"a\nbc\n")
    assert run([source], tmp_path / "out", vocab).tokens == 3


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("workers", [1, 2])
def test_bad_bytes_are_named_by_file_and_line(tmp_path, vocab, small_chunks, suffix, workers):
    good = b"a b\n" * 1000
    pack = gzip.compress if suffix else bytes
    source = write(tmp_path / f"t.txt{suffix}", pack(good + b"a \xe4\xbd\n" + good))
    with pytest.raises(UserError, match=rf"t\.txt{suffix} line 1001 \(offset 4002\): byte 0xe4 is not valid UTF-8"):
        run([source], tmp_path / "out", vocab, workers=workers)


def test_bad_inputs_are_refused_in_one_line(tmp_path, vocab):
    good = write(tmp_path / "t.txt", b"a\n")
    empty = write(tmp_path / "empty.txt", b"")
    cut = write(tmp_path / "cut.txt.gz", gzip.compress(corpus(1))[:-20])
    no_gzip = write(tmp_path / "no.txt.gz", b"plain text")
    os.mkfifo(tmp_path / "pipe")
    occupied, hidden = tmp_path / "occupied", tmp_path / "hidden"
    occupied.mkdir()
    hidden.mkdir()
    write(hidden / ".DS_Store", b"")
    write(occupied / "thesis.doc", b"")
    cases = [
        (([tmp_path / "missing.txt"], "out"), {}, "missing.txt: No such file"),
        (([empty], "out1"), {}, "holds no text"),
        (([write(tmp_path / "blank.txt", b" \n\n\t\n")], "out2"), {}, "holds no text"),
        (([cut], "out3"), {}, "damaged or truncated gzip"),
        (([no_gzip], "out4"), {}, "damaged or truncated gzip"),
        (([tmp_path], "out5"), {}, "lies in the folder"),
        (([hidden], "out5"), {}, "holds no files"),
        (([tmp_path / "pipe"], "out6"), {}, "not a regular file"),
        (([good, good], "out7"), {}, "given twice"),
        (([], "out8"), {}, "names no file"),
        (([good], "out9"), {"train_vocab": 100}, "not both"),
        (([good], "out10"), {"vocab": None}, "vocab"),
        (([good], "out11"), {"part": "3/2"}, "part='3/2'"),
        (([good], "out12"), {"part": "x"}, "part='x'"),
        (([good], "out13"), {"workers": -1}, "workers=-1"),
        (([good], "out14"), {"shard_tokens": 0}, "shard_tokens=0"),
        (([good], "out15"), {"segmenter": "pku"}, "segmenter='pku'"),
        (([write(tmp_path / "t.jsonl", b'{"text": "a"}')], "out16"), {}, "--json_field"),
        (([good], "t.txt/out17"), {}, "Not a directory"),
        (([good], "occupied"), {}, r"is not empty \(it holds thesis.doc\)"),
    ]
    for (inputs, output), options, message in cases:
        with pytest.raises(UserError, match=message) as error:
            run(inputs, tmp_path / output, vocab, **options)
        assert "\n" not in str(error.value)


def test_the_summary_names_unknown_words_and_documents_of_one_sentence(tmp_path, vocab, capsys):
    text = "我们 “在” — abz.\n\n" * 50 + "a — a\n"
    source = write(tmp_path / "t.txt", text.encode())
    run([source], tmp_path / "out", vocab, workers=2)
    notes = capsys.readouterr().err
    assert "most often '—' 51, " in notes
    assert all(f"{word!r} 50" in notes for word in ("“", "”", "abz", "."))
    assert "documents have about one sentence" in notes
    assert "--split_sentences" in notes
    run([source], tmp_path / "split", vocab, split_sentences=True)
    assert "give --split_sentences" not in capsys.readouterr().err
    run([write(tmp_path / "good.txt", b"a\nb\n\nab\na\n")], tmp_path / "good", vocab)
    assert "note" not in capsys.readouterr().err


def test_a_second_run_of_the_same_part_is_refused(tmp_path, vocab):
    source = write(tmp_path / "t.txt", corpus(9, documents=3000))
    command = [sys.executable, "-m", "albert_fast", "prepare", "--input", str(source), "--vocab", vocab]
    command += ["--output", str(tmp_path / "out"), "--shard_tokens", "20000"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("progress-*.json")):
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        if not (tmp_path / "out/manifest.json").exists():
            with pytest.raises(UserError, match="another run is writing"):
                run([source], tmp_path / "out", vocab, shard_tokens=20000)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0


def test_warnings_of_the_summary(tmp_path, vocab, capsys):
    run([write(tmp_path / "one.txt", b"a\nb\n")], tmp_path / "out", vocab)
    assert "no blank lines" in capsys.readouterr().err
    run([write(tmp_path / "xyz.txt", b"a xyz\n\nb\n")], tmp_path / "out2", vocab)
    captured = capsys.readouterr()
    assert "33.3% of the tokens are unknown" in captured.err
    assert "no blank lines" not in captured.err
    assert "2 documents, 2 sentences, 3 tokens (33.33% unknown)" in captured.out
    wordpiece_tokenizer([*SPECIAL_TOKENS, "a", "A", "B"], lowercase=True).save(tmp_path / "cased")
    run([tmp_path / "one.txt"], tmp_path / "out3", str(tmp_path / "cased/vocab.txt"))
    assert "2 tokens of the vocabulary have capitals but the text is lowercased" in capsys.readouterr().err
