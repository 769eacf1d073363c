"""Chunks to tokens in one process or several: the same bytes, whole words, and no worker left behind."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.preparing import CHARACTERS, corpus, documents, files, run, write

from albert_fast.data import workers as workers_module
from albert_fast.data.input_files import input_files
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.shards import read_documents
from albert_fast.data.text import Position, part_spans, read_chunks
from albert_fast.data.verify import VerifyOptions, verify
from albert_fast.data.workers import Recipe, encode_chunks
from albert_fast.options import UserError


def test_bytes_do_not_depend_on_the_workers(tmp_path, vocab, small_chunks):
    inputs = [write(tmp_path / f"{i}.txt", corpus(i)) for i in range(2)]
    for workers in (1, 2, 3):
        run(inputs, tmp_path / f"out{workers}", vocab, workers=workers)
    first = files(tmp_path / "out1")
    assert len(first) > 8  # several shards
    assert files(tmp_path / "out2") == first
    assert files(tmp_path / "out3") == first
    verify(VerifyOptions(data=str(tmp_path / "out1")))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_stopped_run_leaves_no_worker_and_goes_on(tmp_path, vocab, stop):
    source = write(tmp_path / "a.txt", corpus(5, documents=1500))
    command = [sys.executable, "-m", "albert_fast", "prepare", "--input", str(source), "--vocab", vocab]
    command += ["--workers", "2", "--shard_tokens", "8000", "--output"]
    process = subprocess.Popen([*command, str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("shard-*.bin")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(stop)
    _, errors = process.communicate()
    assert b"Traceback" not in errors
    assert process.returncode in (0, -signal.SIGKILL if stop == signal.SIGKILL else 130)
    while any(Path(f"/proc/{child}/cmdline").exists() for child in children):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.01)
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_lost_worker_is_one_line(tmp_path, vocab):
    tokenizer = load_tokenizer(vocab)
    chunks = read_chunks(part_spans(input_files((str(write(tmp_path / "t.txt", corpus(1))),)), 1, 1), Position(0, 0))
    before = set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())
    with encode_chunks(Recipe(tokenizer.backend.to_str()), 2) as encode:
        for child in set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()) - before:
            os.kill(int(child), signal.SIGKILL)
        with pytest.raises(UserError, match="a worker process ended with code -9"):
            list(encode(chunks))


def test_a_worker_whose_parent_dies_in_the_midst_of_a_chunk_is_silent(vocab):
    recipe = pickle.dumps(Recipe(load_tokenizer(vocab).backend.to_str()))
    command = [sys.executable, "-c", "from albert_fast.data.workers import serve; serve()"]
    for cut in (recipe[:-9], recipe + pickle.dumps(["a"] * 9)[:-9]):
        done = subprocess.run(command, input=cut, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


def test_lines_longer_than_a_batch_are_encoded_in_parts(tmp_path, vocab, monkeypatch):
    rng = random.Random(0)
    lines = [
        " ".join("".join(rng.choices(CHARACTERS, k=3)) for _ in range(rng.choice((1, 30, 300)))) for _ in range(30)
    ]
    source = write(tmp_path / "t.jsonl", json.dumps({"text": "\n".join(lines)}).encode())
    monkeypatch.setattr(workers_module, "BATCH_CHARACTERS", 64)
    run([source], tmp_path / "out", vocab, json_field="text")
    tokenizer = load_tokenizer(vocab)
    assert documents(tmp_path / "out") == [[tokenizer.encode(line) for line in lines]]


def test_jieba_words_are_whole(tmp_path, vocab):
    jieba = pytest.importorskip("jieba")
    line = "我们在北京大学学习自然语言处理, abcd。"
    source = write(tmp_path / "t.txt", f"{line}\n{line}\n".encode())
    manifest = run([source], tmp_path / "out", vocab, segmenter="jieba")
    words = [word for word in jieba.cut(line) if word.strip()]
    assert "北京大学" in words
    expected = [start for word in words for start in [True] + [False] * (len(word) - 1)]
    expected = [*expected[: -len("abcd。")], True, False, True]  # ab ##cd 。
    for document in read_documents(tmp_path / "out"):
        assert [sentence.word_starts.tolist() for sentence in document] == [expected] * 2
    assert manifest.data["segmenter"].startswith("jieba 0.")
    verify(VerifyOptions(data=str(tmp_path / "out")))
    run([source], tmp_path / "plain", vocab)
    assert all(s.word_starts[:-2].all() for document in read_documents(tmp_path / "plain") for s in document)
