"""The main loop of `prepare` for one part, and the shard being written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import rich.console
import rich.progress

from albert_fast._loader import crc32c
from albert_fast.data.pages import Page, PageBuilder
from albert_fast.data.progress import Progress
from albert_fast.data.shards import ShardWriter
from albert_fast.data.text import Span, TextError, locate, read_chunks
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.data.workers import Recipe, encode_chunks
from albert_fast.files import file_crc, whole_file
from albert_fast.options import note

MAX_UNKNOWN_WORDS = 1 << 14
MAX_SHARD_SENTENCES = 1 << 22  # their lengths are kept in memory until the shard is closed


def encode_part(progress: Progress, tokenizer: Tokenizer, recipe: Recipe, workers: int) -> Counter[str]:
    """Encode the rest of a part's spans into shards; returns the most common words not in the vocabulary."""
    if progress.shards:
        note(f"{progress.directory}: {len(progress.shards)} shards are finished; resuming after them")
    chunks = read_chunks(progress.spans, progress.position)
    limit, counts, pages = progress.settings["shard_tokens"], progress.counts, PageBuilder()
    shard = _OpenShard(progress, tokenizer, recipe.segmenter != "none")
    unknown: Counter[str] = Counter()
    with encode_chunks(recipe, workers) as encode, shard, _live(progress.spans) as show:
        for chunk, encoded in encode(chunks):
            span = chunk.position.span
            if isinstance(encoded, TextError):
                raise locate(progress.spans[span].file, chunk.position.offset + encoded.offset, encoded.message)
            if chunk.begins_span:
                pages.end_document()
            for page in pages.add(encoded, chunk.position.inside_line, chunk.ends_line):
                shard.write(page)
            if chunk.ends_span:
                pages.end_document()
            progress.position = chunk.end
            progress.span_crcs[span] = crc32c(chunk.data, progress.span_crcs[span])
            counts.bytes += len(chunk.data)
            counts.unknown_tokens += int((encoded.ids == tokenizer.unk_id).sum())
            unknown.update(encoded.unknown)
            if len(unknown) > MAX_UNKNOWN_WORDS:
                unknown = Counter(dict(unknown.most_common(MAX_UNKNOWN_WORDS // 2)))
            counts.blank_lines += int(encoded.is_blank.sum())
            tokens, sentences = shard.num_tokens + pages.num_tokens, shard.num_sentences + pages.num_sentences
            show(counts.bytes, counts.tokens + tokens)
            full = max(tokens / limit, sentences / MAX_SHARD_SENTENCES)
            # Preferably at the end of a document; a very long one is split.
            if full >= 2 or (full >= 1 and not pages.document_is_open):
                shard.close(pages)
        progress.complete = True
        shard.close(pages)
    return unknown


class _OpenShard:
    """The shard being written, created with its first page and recorded in the part's progress when closed.

    A context manager: if the run fails, the incomplete shard is removed, so that it does not keep the disk full.
    """

    def __init__(self, progress: Progress, tokenizer: Tokenizer, segmented: bool):
        self._progress, self._tokenizer, self._segmented = progress, tokenizer, segmented
        self._writer: ShardWriter | None = None
        self._open = ExitStack()

    def __enter__(self) -> _OpenShard:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    @property
    def num_tokens(self) -> int:
        return self._writer.num_tokens if self._writer else 0

    @property
    def num_sentences(self) -> int:
        return self._writer.num_sentences if self._writer else 0

    @property
    def _path(self) -> Path:
        part = f"{self._progress.part:04d}-" if self._progress.parts > 1 else ""
        return self._progress.directory / f"shard-{part}{len(self._progress.shards):05d}.bin"

    def write(self, page: Page) -> None:
        if self._writer is None:
            partial = self._open.enter_context(whole_file(self._path))
            file = self._open.enter_context(open(partial, "wb", buffering=1 << 20))  # noqa: SIM115
            self._writer = ShardWriter(file, self._tokenizer, self._segmented)
        self._writer.write_page(page.ids, page.word_starts, page.lengths, page.first_of_document)

    def close(self, pages: PageBuilder) -> None:
        """Finish the shard with the rest of `pages`, and record the progress of the part."""
        for page in pages.flush():
            self.write(page)
        writer, path, progress = self._writer, self._path, self._progress
        if writer is not None:
            writer.finish()
            self._open.close()
            self._writer = None
            totals = {key: getattr(writer, f"num_{key}") for key in ("tokens", "sentences", "documents")}
            entry = {"file": path.name, "bytes": path.stat().st_size, "crc32c": file_crc(path), **totals}
            progress.shards.append(entry)
            for key, value in totals.items():
                setattr(progress.counts, key, getattr(progress.counts, key) + value)
        progress.save()


@contextmanager
def _live(spans: list[Span]) -> Iterator[Callable[[int, int], None]]:
    """Live progress on standard error; yields a function to call with bytes and tokens so far."""
    total = None if any(span.end is None for span in spans) else sum((span.end or 0) - span.start for span in spans)
    columns = (
        rich.progress.TextColumn("preparing"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[text]}"),
        rich.progress.TimeRemainingColumn(),
    )
    began = time.monotonic()
    first: tuple[int, int] | None = None
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, text="")

        def show(done: int, tokens: int) -> None:
            nonlocal first
            first = first or (done, tokens)
            seconds = max(time.monotonic() - began, 1e-9)
            rates = f"{(done - first[0]) / 1e6 / seconds:.1f} MB/s, {(tokens - first[1]) / seconds:,.0f} tokens/s"
            progress.update(task, completed=done, text=f"{done / 1e6:,.0f} MB, {tokens:,} tokens, {rates}")

        yield show
