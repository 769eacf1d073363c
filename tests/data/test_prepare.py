"""prepare as a job: workers, parts, stops at any moment, every kind of input, and every way it can be wrong."""

import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from albert_fast.data import text as text_module
from albert_fast.data import workers as workers_module
from albert_fast.data.batches import PretrainingLoader
from albert_fast.data.inputs import InputFile, input_files
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.shards import read_documents
from albert_fast.data.text import Position, part_spans, read_chunks
from albert_fast.data.tokenizer import SPECIAL_TOKENS, load_tokenizer, wordpiece_tokenizer
from albert_fast.data.verify import VerifyOptions, verify
from albert_fast.data.workers import Recipe, encode_chunks
from albert_fast.options import UserError

CHARACTERS = "abcdefgh我们在北京大学习自然语言处理"
VOCABULARY = [*SPECIAL_TOKENS, *CHARACTERS, *(f"##{c}" for c in "abcdefgh"), "ab", "##cd", ",", "。"]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocab")
    wordpiece_tokenizer(VOCABULARY).save(folder)
    return str(folder / "vocab.txt")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 512)


def corpus(seed, documents=60, newline="\n"):
    """Text of many documents, with empty lines in number, trailing blanks, and now and then a long line."""
    rng = random.Random(seed)
    blocks = []
    for _ in range(documents):
        words = [["".join(rng.choices(CHARACTERS, k=rng.randint(1, 6))) for _ in range(rng.choice((1, 5, 20)))]
                 for _ in range(rng.choice((1, 3, 9)))]  # fmt: skip
        blocks.append("".join(" ".join(sentence) + rng.choice(("", " ")) + newline for sentence in words))
        blocks.append(rng.choice((newline, f" {newline}", newline * 3)))
    return "".join(blocks).encode()


def run(inputs, output, vocabulary, **options):
    defaults = {"vocab": vocabulary, "workers": 1, "shard_tokens": 700}
    return prepare(PrepareOptions(input=tuple(map(str, inputs)), output=str(output), **{**defaults, **options}))


def write(path, content):
    path.write_bytes(content)
    return path


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def documents(folder):
    return [[sentence.ids.tolist() for sentence in document] for document in read_documents(folder)]


def test_bytes_do_not_depend_on_the_workers(tmp_path, vocab, small_chunks):
    inputs = [write(tmp_path / f"{i}.txt", corpus(i)) for i in range(2)]
    for workers in (1, 2, 3):
        run(inputs, tmp_path / f"out{workers}", vocab, workers=workers)
    first = files(tmp_path / "out1")
    assert len(first) > 8  # several shards
    assert files(tmp_path / "out2") == first
    assert files(tmp_path / "out3") == first
    verify(VerifyOptions(data=str(tmp_path / "out1")))


class Stop:
    """Kills this process with SIGKILL at the n-th time that a file is put in its place, before or after it."""

    def __init__(self, countdown, after):
        self.countdown, self.after = countdown, after
        self.replace = os.replace

    def __call__(self, source, target):
        self.countdown -= 1
        if self.countdown == 0 and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.replace(source, target)
        if self.countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_step_it_goes_on_to_the_same_bytes(tmp_path, vocab, small_chunks, after):
    inputs = [write(tmp_path / "a.txt", corpus(3, 12)), write(tmp_path / "b.txt.gz", gzip.compress(corpus(4, 5)))]
    run(inputs, tmp_path / "whole", vocab)
    expected = files(tmp_path / "whole")
    for step in range(1, 1000):
        folder = tmp_path / f"stopped{step}"
        child = os.fork()
        if child == 0:
            os.replace = Stop(step, after)
            run(inputs, folder, vocab)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        run(inputs, folder, vocab)
        assert files(folder) == expected
    assert step > len(expected) + 4


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


def test_byte_level_bpe(tmp_path, vocab):
    """A tokenizer.json that is no WordPiece: words as its pre-tokenizer splits them, no unknown token needed."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    lines = ["the cat, the hat", "a bat sat on the mat", "我们 the"]
    specials = ["<s>", "<pad>", "</s>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(lines * 9, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    source = write(tmp_path / "t.txt", "\n".join([*lines, "<mask> </s>"]).encode())
    run([source], tmp_path / "out", str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "out")
    (document,) = read_documents(tmp_path / "out")
    assert [tokenizer.decode(s.ids, skip_special_tokens=False) for s in document] == [*lines, "<mask> </s>"]
    assert not set(document[-1].ids.tolist()) & tokenizer.special_ids
    words = [tokenizer.decode(word) for word in np.split(document[0].ids, np.flatnonzero(document[0].word_starts)[1:])]
    assert words == ["the", " cat", ",", " the", " hat"]
    verify(VerifyOptions(data=str(tmp_path / "out")))
    with pytest.raises(UserError, match="needs a WordPiece vocabulary"):
        run([source], tmp_path / "out2", str(tmp_path / "tokenizer.json"), segmenter="jieba")


def test_ids_of_four_bytes(tmp_path):
    """A vocabulary of over 65,536 tokens, read back by the plain reader and by the loader."""
    tokens = [*SPECIAL_TOKENS, *(f"##{i}" for i in range(65_600)), *(f"z{i}" for i in range(300))]
    wordpiece_tokenizer(tokens).save(tmp_path / "vocab")
    source = write(tmp_path / "t.txt", b"z1 z2 z299\nz3 z4 z5\n" * 50)
    run([source], tmp_path / "out", str(tmp_path / "vocab/vocab.txt"))
    verify(VerifyOptions(data=str(tmp_path / "out")))
    (document,) = read_documents(tmp_path / "out")
    first = 5 + 65_600
    assert [s.ids.tolist() for s in document[:2]] == [
        [first + 1, first + 2, first + 299],
        [first + 3, first + 4, first + 5],
    ]
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


def test_text_changed_after_a_stop_is_refused(tmp_path, vocab, small_chunks):
    content = corpus(8)
    source = write(tmp_path / "t.txt", content[:-3] + b"\xff\n\n")  # stops it after most of the shards
    with pytest.raises(UserError, match=r"t\.txt line \d+"):
        run([source], tmp_path / "out", vocab)
    assert len(list((tmp_path / "out").glob("shard-*.bin"))) > 1
    source.write_bytes(content[:-3] + b"a\n\n")
    shard = next((tmp_path / "out").glob("shard-*.bin"))
    before = shard.stat().st_mtime_ns
    run([source], tmp_path / "out", vocab)  # the rest may change: the text behind the shards is the same
    assert shard.stat().st_mtime_ns == before
    run([source], tmp_path / "whole", vocab)
    assert files(tmp_path / "out") == files(tmp_path / "whole")

    source.write_bytes(content[:-3] + b"\xff\n\n")
    with pytest.raises(UserError, match=r"t\.txt line \d+"):
        run([source], tmp_path / "other", vocab)
    source.write_bytes(b"h" + content[1:])
    with pytest.raises(UserError, match="is not the text that"):
        run([source], tmp_path / "other", vocab)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', r"line 2 \(offset 14\): not a JSON object"),
        (b'{"text": "a"}\n{"body": "a"}\n', r"line 2 .*no field 'text' \(found: body\)"),
        (b"[1]\n", "line 1 .*no field 'text'"),
        (b'{"text": 7}\n', "line 1 .*holds int, not a string"),
        (b"[" * 100_000 + b"\n", "line 1 .*not a JSON object"),
    ],
    ids=["cut", "other-field", "list", "number", "deep"],
)
def test_bad_json_lines_are_named(tmp_path, vocab, content, message):
    source = write(tmp_path / "t.jsonl", content)
    with pytest.raises(UserError, match=message):
        run([source], tmp_path / "out", vocab, json_field="text")


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
        (([cut], "out3"), {}, "damaged or cut gzip"),
        (([no_gzip], "out4"), {}, "damaged or cut gzip"),
        (([tmp_path], "out5"), {}, "lies in the folder"),
        (([hidden], "out5"), {}, "holds no files"),
        (([tmp_path / "pipe"], "out6"), {}, "no regular file"),
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
    assert "documents of about one sentence" in notes
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


def test_no_room_is_one_line_and_the_run_goes_on_later(tmp_path, vocab, small_chunks):
    source = write(tmp_path / "t.txt", corpus(2))
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            run([source], tmp_path / "out", vocab, shard_tokens=4000)
        except UserError as error:
            os._exit(0 if "File too large" in str(error) and "\n" not in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert not list((tmp_path / "out").glob("shard-*.partial"))
    run([source], tmp_path / "out", vocab, shard_tokens=4000)
    run([source], tmp_path / "whole", vocab, shard_tokens=4000)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


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
    assert "2 tokens of the vocabulary have capitals and the text is lowered" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path, vocab):
    """One line, one document and many documents of 128 MB cost what 64 MB cost: buffers are full well before."""
    code = (
        "import sys; from albert_fast.data.prepare import *;"
        "prepare(PrepareOptions(input=(sys.argv[1],), output=sys.argv[2], vocab=sys.argv[3], workers=1));"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    for name, unit in {"line": b"abcd ab ", "document": b"abcd ab\n", "documents": b"abcd ab\n\n"}.items():
        peaks = []
        for megabytes in (64, 128):
            path = write(tmp_path / f"{name}{megabytes}.txt", unit * (megabytes * 1_000_000 // len(unit)))
            command = [sys.executable, "-c", code, str(path), str(tmp_path / f"{name}{megabytes}"), vocab]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append(int(output.split()[-2]) / 1024)
        assert peaks[1] - peaks[0] < 20, (name, peaks)
