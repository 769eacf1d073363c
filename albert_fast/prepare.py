"""`prepare`: raw text to a prepared folder, once, in bounded memory, by several processes or several jobs.

The input of a job is a list of spans; its chunks are encoded in order, gathered into pages, and written as shards.
A shard is closed at the end of a chunk, so that all a later run needs is where that chunk ended: a small progress
file says so after every shard. Whichever run finds every part complete writes the manifest, which is the merge.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ._loader import crc32c
from .config import UserError, check_choice, note, option
from .manifest import FORMAT, MANIFEST, VERSION, Manifest, file_crc, open_folder, write_file, write_manifest
from .pages import Page, PageBuilder
from .progress import (
    Counts,
    Progress,
    check_same,
    check_text,
    live,
    locked,
    read_progress,
    sweep,
    writing,
)
from .shards import ShardWriter
from .text import Span, TextError, locate, part_spans, read_chunks
from .tokenizer import Tokenizer, load_tokenizer
from .vocabulary import train_vocabulary
from .workers import Recipe, encode_chunks, load_segmenter

WORKER_BYTES = 1 << 23
MAX_SHARD_SENTENCES = 1 << 22  # their lengths wait in memory until the shard is closed


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Which text (one sentence a line, a blank line between documents), and into what."""

    input: tuple[str, ...] = option(help="text files; .gz is read as gzip")
    output: str = option(help="folder to write; a stopped run goes on where it was")
    vocab: str | None = option(None, "vocab.txt, tokenizer.json, or a folder that holds one")
    train_vocab: int | None = option(None, "make a WordPiece vocabulary of this many tokens from the input instead")
    lowercase: bool | None = option(None, "lower the text and strip accents (yes, but a tokenizer.json says itself)")
    segmenter: Literal["none", "jieba"] = option("none", "jieba: Chinese words, as it finds them, are masked whole")
    json_field: str | None = option(None, "input is one JSON object a line, and this string field is a document's text")
    workers: int = option(0, "processes that tokenize (0: one a core)")
    part: str = option("1/1", "i/n: do the i-th of n parts; the run that finds all n complete joins them")
    shard_tokens: int = option(1 << 26, "tokens after which a shard is closed and the run can go on from there")


def prepare(options: PrepareOptions) -> Manifest | None:
    """Turn text into a folder of token shards, once; a run that was stopped goes on where it was. Prints a summary.

    Returns:
        The finished folder's manifest; None while other parts are missing.

    Raises:
        UserError: bad options or input, a folder of another run, no room on the disk.
    """
    part, parts = _check(options)
    directory = Path(options.output)
    spans = part_spans(options.input, part, parts, options.json_field is not None)
    tokenizer = None if options.vocab is None else load_tokenizer(options.vocab, options.lowercase)
    settings = _settings(options, parts, tokenizer)
    if (directory / MANIFEST).exists():
        return _already_finished(open_folder(directory), settings, spans, part)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, f"part-{part:04d}-of-{parts:04d}"):
        progress = Progress(directory, settings, spans, part, parts)
        progress.load()
        if not progress.complete:
            tokenizer = tokenizer or _trained(options, directory)
            with writing(directory):
                for name, content in tokenizer.files().items():
                    write_file(directory / name, content)
            cased = sum(
                token.lower() != token
                for token, keep in zip(tokenizer.tokens, tokenizer.is_ordinary, strict=True)
                if keep
            )
            if tokenizer.is_lowercase and cased > tokenizer.vocab_size // 100:
                note(f"{cased} tokens of the vocabulary have capitals and the text is lowered; see --no-lowercase")
            recipe = Recipe(tokenizer.backend.to_str(), options.json_field, options.segmenter)
            began, before = time.monotonic(), replace(progress.counts)
            _encode(progress, tokenizer, recipe, options.workers or _fitting_workers(options.input))
            _report(progress, time.monotonic() - began, before)
        return _merge(progress)


def _check(options: PrepareOptions) -> tuple[int, int]:
    if not options.input:
        raise UserError("input names no file; give one or more text files")
    if (options.vocab is None) == (options.train_vocab is None):
        raise UserError("give either vocab (a vocab.txt or tokenizer.json) or train_vocab (a size), and not both")
    if options.workers < 0:
        raise UserError(f"workers={options.workers} must be 1 or more, or 0 for one a core")
    if options.shard_tokens < 1:
        raise UserError(f"shard_tokens={options.shard_tokens} must be 1 or more; the default is {1 << 26}")
    check_choice("segmenter", options.segmenter, ("none", "jieba"))
    load_segmenter(options.segmenter)
    repeated = [path for path in options.input if options.input.count(path) > 1]
    if repeated:
        raise UserError(f"input {repeated[0]} is given twice; name a file once")
    if options.json_field is None:
        for path in options.input:
            if path.removesuffix(".gz").endswith(".jsonl"):
                raise UserError(f"input {path} is JSON lines by its name; name the text's field with --json_field")
    part, _, parts = options.part.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts) <= 9999):
        raise UserError(f"part={options.part!r} must be i/n with 1 <= i <= n <= 9999, such as 3/8")
    return int(part), int(parts)


def _fitting_workers(paths: tuple[str, ...]) -> int:
    """One process a core, but none for whom there is not a second's work."""
    return min(len(os.sched_getaffinity(0)), 1 + sum(os.stat(path).st_size for path in paths) // WORKER_BYTES)


def _settings(options: PrepareOptions, parts: int, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What decides the folder's bytes, beside the text itself."""
    segmenter: str = options.segmenter
    if segmenter == "jieba":
        segmenter = f"jieba {metadata.version('jieba')}"
    return {
        "input": [[Path(path).name, os.stat(path).st_size] for path in options.input],
        "json_field": options.json_field,
        "parts": parts,
        "segmenter": segmenter,
        "shard_tokens": options.shard_tokens,
        "train_vocab": options.train_vocab
        and {"size": options.train_vocab, "lowercase": options.lowercase is not False},
        "vocab_crc32c": tokenizer and crc32c(tokenizer.files()["tokenizer.json"]),
    }


def _trained(options: PrepareOptions, directory: Path) -> Tokenizer:
    if (directory / "tokenizer.json").exists():  # by a run that was stopped, or by another part
        return load_tokenizer(directory / "tokenizer.json")
    size, lowercase = int(options.train_vocab or 0), options.lowercase is not False
    return train_vocabulary(options.input, size, lowercase=lowercase, json_field=options.json_field)


def _encode(progress: Progress, tokenizer: Tokenizer, recipe: Recipe, workers: int) -> None:
    """Encode what is left of a part's spans into shards."""
    if progress.shards:
        note(f"{progress.directory}: {len(progress.shards)} shards are finished; going on after them")
    chunks = read_chunks(progress.spans, progress.position, recipe.json_field is not None)
    limit, counts, pages = progress.settings["shard_tokens"], progress.counts, PageBuilder()
    shard = _OpenShard(progress, tokenizer, recipe.segmenter != "none")
    with encode_chunks(recipe, workers) as encode, shard.discarded_on_failure(), live(progress.spans) as show:
        for chunk, encoded in encode(chunks):
            span = chunk.position.span
            if isinstance(encoded, TextError):
                raise locate(progress.spans[span].path, chunk.position.offset + encoded.offset, encoded.message)
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
            counts.blank_lines += int(encoded.is_blank.sum())
            tokens, sentences = shard.num_tokens + pages.num_tokens, shard.num_sentences + pages.num_sentences
            show(counts.bytes, counts.tokens + tokens)
            full = max(tokens / limit, sentences / MAX_SHARD_SENTENCES)
            # At a document's end if there is one before long; one longer than that is cut.
            if full >= 2 or (full >= 1 and not pages.document_is_open):
                shard.close(pages)
        progress.complete = True
        shard.close(pages)


class _OpenShard:
    """The shard being written, begun with its first page; recorded in the part's progress when it is closed."""

    def __init__(self, progress: Progress, tokenizer: Tokenizer, segmented: bool):
        self._progress, self._tokenizer, self._segmented = progress, tokenizer, segmented
        self._writer: ShardWriter | None = None
        self._file: BinaryIO | None = None

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
        with writing(self._progress.directory):
            if self._writer is None:
                self._file = open(f"{self._path}.partial", "wb", buffering=1 << 20)  # noqa: SIM115
                self._writer = ShardWriter(self._file, self._tokenizer, self._segmented)
            self._writer.write_page(page.ids, page.word_starts, page.lengths, page.first_of_document)

    def close(self, pages: PageBuilder) -> None:
        """Finish the shard with what `pages` still holds, and record where the part stands."""
        for page in pages.flush():
            self.write(page)
        writer, file, progress = self._writer, self._file, self._progress
        if writer is not None and file is not None:
            with writing(progress.directory):
                writer.finish()
                file.flush()
                os.fsync(file.fileno())
                file.close()
                path = self._path
                os.replace(f"{path}.partial", path)
                totals = {key: getattr(writer, f"num_{key}") for key in ("tokens", "sentences", "documents")}
                entry = {"file": path.name, "bytes": path.stat().st_size, "crc32c": file_crc(path), **totals}
            self._writer = self._file = None
            progress.shards.append(entry)
            for key, value in totals.items():
                setattr(progress.counts, key, getattr(progress.counts, key) + value)
        progress.save()

    @contextmanager
    def discarded_on_failure(self) -> Iterator[None]:
        """Give the disk its room back when the run fails: a full disk must not stay full of half a shard."""
        try:
            yield
        except BaseException:
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()
                Path(f"{self._path}.partial").unlink(missing_ok=True)
            raise


def _merge(progress: Progress) -> Manifest | None:
    """Write the manifest, once every part is complete."""
    directory, parts = progress.directory, range(1, progress.parts + 1)
    saved = {part: read_progress(progress.file(part)) for part in parts if progress.file(part).exists()}
    if (directory / MANIFEST).exists():  # another part was quicker
        return open_folder(directory)
    missing = [part for part in parts if not saved.get(part, {}).get("complete")]
    if missing:
        print(f"part {progress.part}/{progress.parts} is complete; still to come: {_ranges(missing)}")
        return None
    totals = {key: sum(part["counts"][key] for part in saved.values()) for key in asdict(Counts())}
    if not totals["tokens"]:
        names = ", ".join(name for name, _ in progress.settings["input"])
        raise UserError(f"input {names} holds no text; give files with text")
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    contents = {name: (directory / name).read_bytes() for name in tokenizer.files()}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **totals,
        "vocab_size": tokenizer.vocab_size,
        "vocabulary_fingerprint": tokenizer.fingerprint.hex(),
        "lowercase": tokenizer.is_lowercase,
        "segmenter": progress.settings["segmenter"],
        "settings": progress.settings,
        "span_crcs": [part["span_crcs"] for part in saved.values()],
        "shards": [shard for part in saved.values() for shard in part["shards"]],
        "files": {name: {"bytes": len(data), "crc32c": crc32c(data)} for name, data in contents.items()},
    }
    with writing(directory):
        write_manifest(directory, manifest)
    sweep(directory)
    size = sum(shard["bytes"] for shard in manifest["shards"])
    print(f"{directory}: {len(manifest['shards'])} shards, {size / 1e6:,.1f} MB, {totals['tokens']:,} tokens")
    return open_folder(directory)


def _already_finished(manifest: Manifest, settings: dict[str, Any], spans: list[Span], part: int) -> Manifest:
    check_same(manifest.directory, settings, manifest.data["settings"])
    check_text(manifest.directory, spans, manifest.data["span_crcs"][part - 1], None)
    sweep(manifest.directory)
    print(f"{manifest.directory}: already prepared from this input with these settings; nothing to do")
    return manifest


def _report(progress: Progress, seconds: float, before: Counts) -> None:
    """The summary of what a part holds, with this run's speed; and what looks wrong with the text."""
    counts = progress.counts
    rate, token_rate = (
        (now - then) / max(seconds, 1e-9)
        for now, then in ((counts.bytes / 1e6, before.bytes / 1e6), (counts.tokens, before.tokens))
    )
    unknown = counts.unknown_tokens / max(counts.tokens, 1)
    print(
        f"{counts.documents:,} documents, {counts.sentences:,} sentences, {counts.tokens:,} tokens "
        f"({unknown:.2%} unknown) from {counts.bytes / 1e6:,.1f} MB in {seconds:.1f} s: "
        f"{rate:.2f} MB/s, {token_rate:,.0f} tokens/s"
    )
    if unknown > 0.01:
        note(f"{unknown:.1%} of the tokens are unknown to the vocabulary: is it one for this text's language?")
    if progress.settings["json_field"] is None and counts.tokens and not counts.blank_lines:
        note("the text has no blank lines, so every file is one document; put a blank line between documents")


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
