"""The loader as a citizen of its process: threads, forks, signals, files that go away, memory."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from support.process_memory import anonymous_bytes
from support.shard_writer import Document, random_documents, write_shard

from albert_fast import _loader
from albert_fast.data.batches import PretrainingLoader
from albert_fast.options import UserError

SETTINGS = {"tokens_per_batch": 1024, "max_seq_length": 64, "seed": 3}


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "a.bin"
    write_shard(path, random_documents(1, 600), 500, page_tokens=512)
    return path


def loader_threads() -> int:
    tasks = Path("/proc/self/task").glob("*/comm")
    return sum(task.read_text().strip() == "albert-loader" for task in tasks)


def test_closing_leaves_no_thread(shard):
    before = loader_threads()
    for taken in (0, 1, 5):
        loader = PretrainingLoader([shard], threads=3, **SETTINGS)
        batches = [next(loader) for _ in range(taken)]
        copies = [batch.input_ids.copy() for batch in batches]
        deadline = time.monotonic() + 10
        while loader_threads() < before + 3 and time.monotonic() < deadline:
            time.sleep(0.001)  # a thread names itself when it first runs
        assert loader_threads() == before + 3
        loader.close()
        loader.close()
        assert loader_threads() == before
        with pytest.raises(UserError, match="closed"):
            next(loader)
        for batch, copy in zip(batches, copies, strict=True):
            np.testing.assert_array_equal(batch.input_ids, copy)


def test_a_forgotten_loader_closes_itself(shard):
    before = loader_threads()
    loader = PretrainingLoader([shard], **SETTINGS)
    next(loader)
    del loader
    assert loader_threads() == before


def test_batches_stay_valid_while_held(shard):
    with PretrainingLoader([shard], **SETTINGS) as loader:
        held = [next(loader) for _ in range(60)]
    with PretrainingLoader([shard], **SETTINGS) as loader:
        for batch in held:
            again = next(loader)
            for name in ("input_ids", "cu_seqlens", "masked_lm_ids", "masked_lm_weights", "sentence_order_labels"):
                np.testing.assert_array_equal(getattr(batch, name), getattr(again, name))
    memory = held[0].input_ids
    del held
    assert memory.sum() > 0
    assert memory.ctypes.data % 64 == 0


def run(code: str, *arguments: object) -> subprocess.Popen:
    lines = f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", lines, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_forked_child_is_told_and_leaves_the_parent_alone(shard):
    process = run(
        """
        import os
        from albert_fast.data.batches import PretrainingLoader
        from albert_fast.options import UserError
        loader = PretrainingLoader([sys.argv[1]], tokens_per_batch=1024, max_seq_length=64, seed=3)
        first = [next(loader) for _ in range(30)]
        for _ in range(20):  # forks meet the threads in every state
            child = os.fork()
            if child == 0:
                sys.exit(0)  # the loader is destroyed, but not the parent's threads
            assert os.waitpid(child, 0)[1] == 0
        child = os.fork()
        if child == 0:
            del first  # gives memory back to a pool whose lock another thread may have held
            try:
                next(loader)
            except UserError as error:
                with PretrainingLoader([sys.argv[1]], tokens_per_batch=1024, max_seq_length=64, seed=3) as own:
                    ok = "create one in each process" in str(error) and next(own).index == 0
                sys.exit(0 if ok else 1)
            sys.exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert next(loader).index == 30
        print("parent goes on")
        """,
        shard,
    )
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "parent goes on\n"), error


def test_control_c_ends_a_waiting_process(shard):
    process = run(
        """
        import os
        from albert_fast.data.batches import PretrainingLoader
        loader = PretrainingLoader([sys.argv[1]], tokens_per_batch=1024, max_seq_length=64, seed=3, start_batch=10**7)
        print("waiting", flush=True)
        try:
            next(loader)  # plans a thousand epochs
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
        """,
        shard,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    out, error = process.communicate(timeout=30)
    assert out == "interrupted\n"
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode in (-signal.SIGINT, 130)
    assert time.monotonic() - begin < 10


def use_up(loader: PretrainingLoader) -> int:
    for count in range(100_000):  # noqa: B007
        next(loader)
    return count


@pytest.mark.parametrize("damage", ["truncated", "changed", "removed", "unreadable"])
def test_files_damaged_in_mid_stream(shard, damage):
    if damage == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads every file")
    with PretrainingLoader([shard], **SETTINGS) as loader:
        for _ in range(10):
            next(loader)
        content = shard.read_bytes()
        if damage == "truncated":
            shard.write_bytes(content[: len(content) // 2])
        elif damage == "changed":
            shard.write_bytes(content[:400] + bytes([content[400] ^ 1]) + content[401:])
        elif damage == "removed":
            shard.unlink()
        else:
            shard.chmod(0)
        for _ in range(2):
            with pytest.raises(UserError, match=str(shard)):
                use_up(loader)


def test_damaged_shards_are_refused_by_name(tmp_path):
    """Every byte changed and every truncation, each named; the C++ tests do the same under sanitizers."""
    path = tmp_path / "small.bin"
    write_shard(path, random_documents(2, 6, sentences=(1, 3), tokens=(1, 9), vocab_size=40), 40, page_tokens=64)
    _loader.check_shard(str(path))
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for offset, byte in enumerate(content):
            for change in (0x01, 0x10, 0xFF):
                os.pwrite(file.fileno(), bytes([byte ^ change]), offset)
                with pytest.raises(RuntimeError, match=str(path)):
                    _loader.check_shard(str(path))
            os.pwrite(file.fileno(), bytes([byte]), offset)
        _loader.check_shard(str(path))
        for size in range(len(content) - 1, -1, -1):
            os.truncate(file.fileno(), size)
            with pytest.raises(UserError, match=str(path)):
                PretrainingLoader([path], **SETTINGS)


@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "pipe", "text"])
def test_what_is_no_shard_is_refused(tmp_path, kind):
    path = tmp_path / "a.bin"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("It was a dark and stormy night. " * 50)
    with pytest.raises(UserError, match=str(path)):
        PretrainingLoader([path], **SETTINGS)


def test_shards_of_two_vocabularies_are_refused(tmp_path):
    for name, vocab_size in (("a.bin", 500), ("b.bin", 501)):
        write_shard(tmp_path / name, random_documents(1, 5), vocab_size)
    with pytest.raises(UserError, match="different vocabulary"):
        PretrainingLoader([tmp_path / "a.bin", tmp_path / "b.bin"], **SETTINGS)


def test_a_cursor_of_another_stream_is_refused(shard):
    with PretrainingLoader([shard], **SETTINGS) as loader:
        cursor = loader.cursor()
    with pytest.raises(UserError, match="changed"):
        PretrainingLoader([shard], **(SETTINGS | {"seed": 4}), cursor=cursor)
    for broken in ({}, cursor | {"group": 10**6}, cursor | {"index": -1}, cursor | {"batch": "x"}):
        with pytest.raises(UserError):
            PretrainingLoader([shard], **SETTINGS, cursor=broken)


def test_the_end_of_the_numbers(shard):
    """Micro-batches are numbered up to 2^63 - 1; a place beyond reach is refused instead of searched for."""
    with (
        PretrainingLoader([shard], **SETTINGS, start_batch=2**62) as loader,
        pytest.raises(UserError, match="epochs ahead"),
    ):
        next(loader)
    with PretrainingLoader([shard], **SETTINGS) as loader:
        cursor = loader.cursor()
    last = cursor | {"index": 2**63 - 2, "epoch": 2**50}
    with PretrainingLoader([shard], **SETTINGS, cursor=last) as loader:
        assert [next(loader).index for _ in range(2)] == [2**63 - 2, 2**63 - 1]
        with pytest.raises(UserError, match="ends at number"):
            next(loader)


def test_tiny_corpora(tmp_path):
    """One page with one sentence; and one with nothing to learn from."""
    path = tmp_path / "a.bin"
    write_shard(path, random_documents(1, 1, sentences=(1, 1), tokens=(9, 9)), 500)
    with pytest.warns(UserWarning, match="exceeds the corpus"):
        loader = PretrainingLoader([path], **SETTINGS)
    batches = [next(loader) for _ in range(20)]
    assert [batch.epoch for batch in batches] == list(range(20))
    loader.close()
    write_shard(path, random_documents(1, 3, sentences=(1, 1), tokens=(1, 1)), 500)
    with (
        pytest.warns(UserWarning, match="exceeds the corpus"),
        PretrainingLoader([path], **SETTINGS) as loader,
        pytest.raises(UserError, match="no document has two tokens"),
    ):
        next(loader)


def test_memory_does_not_grow(shard):
    with PretrainingLoader([shard], **SETTINGS) as loader:
        for _ in range(20_000):
            next(loader)
        before = anonymous_bytes()
        for _ in range(100_000):
            next(loader)
        assert anonymous_bytes() - before < 4 * 2**20  # an object of 48 bytes left a batch would be 4.6 MiB


def test_memory_is_independent_of_the_corpus(tmp_path):
    """100 GB of shards: one of 67 MB under 1500 names, and fewer open files allowed. In a process of its own."""
    random = np.random.default_rng(0)
    source = tmp_path / "source.bin"
    sentences = [random.integers(10, 21_128, 32) for _ in range(2048)]
    write_shard(source, [Document(sentences)] * 510, 21_128)
    names = [tmp_path / f"{i:04d}.bin" for i in range(1500)]
    for name in names:
        os.link(source, name)
    assert len(names) * source.stat().st_size > 100e9
    process = run(
        """
        import os, pathlib, resource, time
        from support.process_memory import anonymous_bytes
        from albert_fast.data.batches import PretrainingLoader
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        before, begin = anonymous_bytes(), time.perf_counter()
        shards = sorted(pathlib.Path(sys.argv[1]).glob("[0-9]*.bin"))
        with PretrainingLoader(shards, tokens_per_batch=16384, max_seq_length=128, seed=1, threads=1) as loader:
            next(loader)
            seconds = time.perf_counter() - begin
            for _ in range(2500):
                next(loader)
            print(anonymous_bytes() - before, seconds, loader.corpus.num_tokens)
        """,
        tmp_path,
    )
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    growth, seconds, tokens = map(float, out.split())
    assert tokens > 45e9
    assert growth < 150e6
    assert seconds < 10  # 1 s on a quiet machine; the bench measures it
