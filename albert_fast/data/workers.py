"""Tokenizes chunks in this process or in several worker processes, returning the results in order.

A worker is a plain child process that communicates by pickle over pipes. It exits when its standard input closes, so
that it never outlives its parent, and it does not re-run the caller's main module.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tokenizers

from albert_fast.data.encode import EncodedLines, Segmenter
from albert_fast.data.pages import EncodedChunk
from albert_fast.data.sentences import sentences
from albert_fast.data.text import Chunk, TextError, chunk_lines, ends_document
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.options import UserError

BATCH_CHARACTERS = 1 << 20  # bounds memory: an Encoding takes some hundred bytes per token


@dataclass(frozen=True)
class Recipe:
    """Settings that a worker receives once; the tokenizer is the text of tokenizer.json."""

    tokenizer: str
    json_field: str | None = None
    segmenter: str = "none"
    split_sentences: bool = False

    def encoder(self) -> Callable[[Chunk], EncodedChunk]:
        """The function that encodes a chunk; it raises TextError."""
        tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(self.tokenizer))
        segment = load_segmenter(self.segmenter)

        def encode(chunk: Chunk) -> EncodedChunk:
            lines = chunk_lines(chunk, self.json_field)
            if self.split_sentences:
                lines = sentences(lines)
            encoded = _encode_bounded(tokenizer, lines, segment)
            blank = np.zeros(len(lines), np.bool_)
            for index in np.flatnonzero(encoded.lengths == 0):
                blank[index] = ends_document(lines[index], chunk.layout)
            return EncodedChunk(encoded.ids, encoded.word_starts, encoded.lengths, blank, encoded.unknown)

        return encode


def load_segmenter(name: str) -> Segmenter | None:
    """A function that splits a line into all its words, in order; None for "none"."""
    if name == "none":
        return None
    try:
        import jieba
    except ImportError:
        raise UserError("segmenter=jieba needs the package jieba; pip install 'albert-fast[chinese]'") from None
    jieba.setLogLevel("WARNING")
    return jieba.cut


def _encode_bounded(tokenizer: Tokenizer, lines: list[str], segment: Segmenter | None) -> EncodedLines:
    """Tokenizer.encode_lines in batches of about BATCH_CHARACTERS; longer lines are encoded in parts."""
    if sum(map(len, lines)) <= BATCH_CHARACTERS:
        return tokenizer.encode_lines(lines, segment)
    cut = [_parts(line) for line in lines]
    parts = [part for line in cut for part in line]
    ends = np.cumsum([len(part) + 1 for part in parts]) // BATCH_CHARACTERS
    edges = [0, *(np.flatnonzero(np.diff(ends)) + 1), len(parts)]
    batches = [parts[a:b] for a, b in pairwise(edges)]
    encoded = [tokenizer.encode_lines(batch, segment) for batch in batches]
    ids, starts, lengths = (np.concatenate([getattr(e, name) for e in encoded]) for name in EncodedLines._fields[:3])
    unknown = sum((e.unknown for e in encoded), Counter[str]())
    if len(parts) > len(lines):
        owned = np.array([len(line) for line in cut])
        lengths = np.add.reduceat(lengths, np.cumsum(owned) - owned)
    return EncodedLines(ids, starts, lengths, unknown)


def _parts(line: str) -> list[str]:
    """Split a line into parts of at most BATCH_CHARACTERS, before a blank if one is near."""
    parts, begin = [], 0
    while len(line) - begin > BATCH_CHARACTERS:
        end = begin + BATCH_CHARACTERS
        blank = line.rfind(" ", end - BATCH_CHARACTERS // 16, end)
        end = blank if blank > begin else end
        parts.append(line[begin:end])
        begin = end
    return [*parts, line[begin:]]


@contextmanager
def encode_chunks(recipe: Recipe, workers: int) -> Iterator[Callable[[Iterable[Chunk]], Iterator]]:
    """Yields a function that maps chunks to (chunk, EncodedChunk or TextError) pairs in order, with bounded lookahead.

    With one worker, this process does the work itself.
    """
    if workers == 1:
        with _without_threads():
            encode = recipe.encoder()
            yield lambda chunks: ((chunk, _attempt(encode, chunk)) for chunk in chunks)
        return
    processes = [_start(recipe) for _ in range(workers)]
    free: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
    for process in processes:
        free.put(process)

    def ask(chunk: Chunk) -> EncodedChunk | TextError:
        process = free.get()
        try:
            return _ask(process, chunk)
        finally:
            free.put(process)

    pool = ThreadPoolExecutor(workers)

    def in_order(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, EncodedChunk | TextError]]:
        flying: deque[tuple[Chunk, Future]] = deque()
        for chunk in chunks:
            flying.append((chunk, pool.submit(ask, chunk)))
            if len(flying) > 2 * workers:
                first, future = flying.popleft()
                yield first, future.result()
        for first, future in flying:
            yield first, future.result()

    try:
        yield in_order
    finally:
        for process in processes:
            process.kill()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.communicate()


def _attempt(encode: Callable[[Chunk], EncodedChunk], chunk: Chunk) -> EncodedChunk | TextError:
    try:
        return encode(chunk)
    except TextError as error:
        return error


@contextmanager
def _without_threads() -> Iterator[None]:
    """Turn off the tokenizers library's own threads, since there is one process per core."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _start(recipe: Recipe) -> subprocess.Popen:
    code = "from albert_fast.data.workers import serve; serve()"
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    pickle.dump(recipe, process.stdin)  # type: ignore[arg-type]
    process.stdin.flush()  # type: ignore[union-attr]
    return process


def _ask(process: subprocess.Popen, chunk: Chunk) -> EncodedChunk | TextError:
    try:
        pickle.dump(chunk, process.stdin, pickle.HIGHEST_PROTOCOL)  # type: ignore[arg-type]
        process.stdin.flush()  # type: ignore[union-attr]
        return pickle.load(process.stdout)  # type: ignore[arg-type]
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        code = process.wait()
        raise UserError(
            f"a worker process ended with code {code} (negative: the signal; -9 is often memory); "
            "run again, with fewer --workers: finished shards stay"
        ) from None


def serve() -> None:
    """Main loop of a worker: read a recipe, then answer chunks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which closes the pipe
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep output of libraries apart from the replies
    try:
        encode = pickle.load(requests).encoder()
        while True:
            reply = _attempt(encode, pickle.load(requests))
            pickle.dump(reply, replies, pickle.HIGHEST_PROTOCOL)
            replies.flush()
    except (
        EOFError,
        BrokenPipeError,
        pickle.UnpicklingError,
    ):  # the parent has exited, possibly in the middle of a chunk
        return
