"""`prepare`: raw text to a prepared folder, once, in bounded memory, by several processes or several jobs.

The input of a job is a list of spans; its chunks are encoded in order, gathered into pages, and written as shards.
A shard is closed at the end of a chunk, so that all a later run needs is where that chunk ended: a small progress
file says so after every shard. Whichever run finds every part complete writes the manifest, which is the merge.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ._loader import crc32c
from .config import UserError, check_choice, note, option
from .pages import Page, PageBuilder
from .shards import FORMAT, MANIFEST, VERSION, Manifest, ShardWriter, file_crc, open_folder, write_file, write_manifest
from .text import CHUNK_BYTES, Position, Span, TextError, locate, open_text, part_spans, read_chunks
from .tokenizer import Tokenizer, load_tokenizer
from .vocabulary import train_vocabulary
from .workers import Recipe, encode_chunks, load_segmenter

MAX_SHARD_SENTENCES = 1 << 22  # their lengths wait in memory until the shard is closed


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Turn text (one sentence a line, a blank line between documents; .gz too) into a folder of token shards."""

    input: tuple[str, ...] = option(help="text files; .gz is read as gzip")
    output: str = option(help="folder to write; a stopped run goes on where it was")
    vocab: str | None = option(None, "vocab.txt, tokenizer.json, or a folder that holds one")
    train_vocab: int | None = option(None, "make a WordPiece vocabulary of this many tokens from the input instead")
    lowercase: bool | None = option(None, "lower the text and strip accents (yes, but a tokenizer.json says itself)")
    segmenter: str = option("none", "none, or jieba: Chinese words are masked whole")
    json_field: str | None = option(None, "input is one JSON object a line, and this string field is a document's text")
    workers: int = option(0, "processes that tokenize (0: one a core)")
    part: str = option("1/1", "i/n: do the i-th of n parts; the run that finds all n complete joins them")
    shard_tokens: int = option(1 << 26, "tokens after which a shard is closed and the run can go on from there")


def prepare(options: PrepareOptions) -> Manifest | None:
    """Prepare `options.input` into `options.output`; prints a summary.

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
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory, f"part-{part:04d}-of-{parts:04d}"):
        job = _Job(directory, settings, spans, part, parts)
        job.load()
        if not job.complete:
            tokenizer = tokenizer or _trained(options, directory)
            with _writing(directory):
                for name, content in tokenizer.files().items():
                    write_file(directory / name, content)
            recipe = Recipe(tokenizer.backend.to_str(), options.json_field, options.segmenter)
            job.run(tokenizer, recipe, options.workers or len(os.sched_getaffinity(0)))
        return job.merge()


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


def _settings(options: PrepareOptions, parts: int, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What decides the folder's bytes, beside the text itself."""
    segmenter = options.segmenter
    if segmenter == "jieba":
        segmenter += f" {metadata.version('jieba')}"
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


@dataclass
class _Counts:
    bytes: int = 0
    tokens: int = 0
    sentences: int = 0
    documents: int = 0
    unknown_tokens: int = 0
    blank_lines: int = 0


@dataclass
class _Job:
    """One part's work; what its progress file holds, and what is done with it."""

    directory: Path
    settings: dict[str, Any]
    spans: list[Span]
    part: int
    parts: int
    position: Position = field(init=False)  # the text before it is in the shards
    shards: list[dict[str, Any]] = field(default_factory=list)
    span_crcs: list[int] = field(default_factory=list)  # of the text behind `position`, a span each
    counts: _Counts = field(default_factory=_Counts)
    complete: bool = False

    def __post_init__(self) -> None:
        self.position = Position(0, self.spans[0].start if self.spans else 0)
        self.span_crcs = [0] * len(self.spans)

    def _file(self, part: int) -> Path:
        return self.directory / f"progress-{part:04d}-of-{self.parts:04d}.json"

    def load(self) -> None:
        """Take up the progress of an earlier run, and refuse a folder that is not this run's."""
        others = {path: _read_progress(path) for path in sorted(self.directory.glob("progress-*.json"))}
        foreign = [path.name for path in self.directory.iterdir() if not path.name.endswith((".lock", ".partial"))]
        if foreign and not others:
            raise UserError(f"output {self.directory} is not empty (it holds {foreign[0]}); give an empty folder")
        if self.parts == 1 and others and not any(saved["shards"] for saved in others.values()):
            for path in (self.directory / "tokenizer.json", *others):  # nothing to lose: settings may change
                path.unlink(missing_ok=True)
            others = {}
        for saved in others.values():
            _check_same(self.directory, self.settings, saved["settings"])
        if self._file(self.part) not in others:
            self.save()
            return
        saved = others[self._file(self.part)]
        self.position, self.counts = Position(**saved["position"]), _Counts(**saved["counts"])
        self.shards, self.complete = saved["shards"], saved["complete"]
        _check_text(self.directory, self.spans, saved["span_crcs"], None if self.complete else self.position)
        self.span_crcs = saved["span_crcs"]
        for shard in self.shards:
            path = self.directory / shard["file"]
            if not path.exists() or path.stat().st_size != shard["bytes"]:
                raise UserError(f"output {path}: is missing or not whole; delete the folder and prepare it again")

    def save(self) -> None:
        keys = ("settings", "position", "shards", "span_crcs", "counts", "complete")
        content = json.dumps({key: value for key, value in asdict(self).items() if key in keys}, indent=1)
        with _writing(self.directory):
            write_file(self._file(self.part), content.encode())

    def run(self, tokenizer: Tokenizer, recipe: Recipe, workers: int) -> None:
        """Encode what is left of the spans into shards."""
        began, before = time.monotonic(), replace(self.counts)
        if self.shards:
            note(f"{self.directory}: {len(self.shards)} shards are finished; going on after them")
        chunks = read_chunks(self.spans, self.position, recipe.json_field is not None)
        limit, pages = self.settings["shard_tokens"], PageBuilder()
        shard = _OpenShard(self, tokenizer, recipe.segmenter != "none")
        with encode_chunks(recipe, workers) as encode, shard.discarded_on_failure(), _progress(self.spans) as show:
            for chunk, encoded in encode(chunks):
                span = chunk.position.span
                if isinstance(encoded, TextError):
                    raise locate(self.spans[span].path, chunk.position.offset + encoded.offset, encoded.message)
                for page in pages.add(encoded, chunk.begins_span, chunk.position.inside_line, chunk.ends_line):
                    shard.write(page)
                self.span_crcs[span] = crc32c(chunk.data, self.span_crcs[span])
                self.position = chunk.end
                self.counts.bytes += len(chunk.data)
                self.counts.unknown_tokens += int((encoded.ids == tokenizer.unk_id).sum())
                self.counts.blank_lines += int(encoded.is_blank.sum())
                tokens = shard.num_tokens + pages.pending_tokens
                full = max(tokens / limit, (shard.num_sentences + pages.pending_sentences) / MAX_SHARD_SENTENCES)
                if full >= 2 or (full >= 1 and not pages.document_is_open):
                    shard.close(pages)
                    tokens = 0
                show(self.counts.bytes, self.counts.tokens + tokens)
            self.complete = True
            shard.close(pages)
        self._report(time.monotonic() - began, before)

    def _report(self, seconds: float, before: _Counts) -> None:
        counts = self.counts
        rate = (counts.bytes - before.bytes) / 1e6 / max(seconds, 1e-9)
        unknown = counts.unknown_tokens / max(counts.tokens, 1)
        print(
            f"{counts.documents:,} documents, {counts.sentences:,} sentences, {counts.tokens:,} tokens "
            f"({unknown:.2%} unknown) from {counts.bytes / 1e6:,.1f} MB in {seconds:.1f} s: {rate:.2f} MB/s, "
            f"{(counts.tokens - before.tokens) / max(seconds, 1e-9):,.0f} tokens/s"
        )
        if unknown > 0.01:
            note(f"{unknown:.1%} of the tokens are unknown to the vocabulary: is it one for this text's language?")
        if self.settings["json_field"] is None and counts.tokens and not counts.blank_lines:
            note("the text has no blank lines, so every file is one document; put a blank line between documents")

    def merge(self) -> Manifest | None:
        """Write the manifest once every part is complete."""
        files = [self._file(part) for part in range(1, self.parts + 1)]
        missing = [i for i, f in enumerate(files, 1) if not f.exists() or not _read_progress(f)["complete"]]
        if (self.directory / MANIFEST).exists():  # another part was quicker
            return open_folder(self.directory)
        if missing:
            print(f"part {self.part}/{self.parts} is complete; still to come: {_ranges(missing)}")
            return None
        saved = [_read_progress(file) for file in files]
        totals = {key: sum(part["counts"][key] for part in saved) for key in asdict(_Counts())}
        if not totals["tokens"]:
            raise UserError(
                f"input {', '.join(n for n, _ in self.settings['input'])} holds no text; give files with text"
            )
        tokenizer = load_tokenizer(self.directory / "tokenizer.json")
        names = tokenizer.files()
        data = {
            "format": FORMAT,
            "version": VERSION,
            **totals,
            "vocab_size": tokenizer.vocab_size,
            "vocabulary_fingerprint": tokenizer.fingerprint.hex(),
            "lowercase": tokenizer.is_lowercase,
            "segmenter": self.settings["segmenter"],
            "settings": self.settings,
            "span_crcs": [part["span_crcs"] for part in saved],
            "shards": [shard for part in saved for shard in part["shards"]],
            "files": {
                name: {"bytes": len(content), "crc32c": crc32c(content)}
                for name, content in ((name, (self.directory / name).read_bytes()) for name in sorted(names))
            },
        }
        with _writing(self.directory):
            write_manifest(self.directory, data)
        _sweep(self.directory)
        manifest = open_folder(self.directory)
        size = sum(shard["bytes"] for shard in data["shards"])
        print(f"{self.directory}: {len(data['shards'])} shards, {size / 1e6:,.1f} MB, {manifest.tokens:,} tokens")
        return manifest


class _OpenShard:
    """The shard being written, begun with its first page; recorded in the job's progress when it is closed."""

    def __init__(self, job: _Job, tokenizer: Tokenizer, segmented: bool):
        self._job, self._tokenizer, self._segmented = job, tokenizer, segmented
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
        part = f"{self._job.part:04d}-" if self._job.parts > 1 else ""
        return self._job.directory / f"shard-{part}{len(self._job.shards):05d}.bin"

    def write(self, page: Page) -> None:
        with _writing(self._job.directory):
            if self._writer is None:
                self._file = open(f"{self._path}.partial", "wb", buffering=1 << 20)  # noqa: SIM115
                self._writer = ShardWriter(self._file, self._tokenizer, self._segmented)
            self._writer.write_page(page.ids, page.word_starts, page.lengths, page.first_of_document)

    def close(self, pages: PageBuilder) -> None:
        """Finish the shard with what `pages` still holds, and record where the job stands."""
        for page in pages.flush():
            self.write(page)
        if self._writer is not None and self._file is not None:
            with _writing(self._job.directory):
                self._writer.finish()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                path = self._path
                os.replace(f"{path}.partial", path)
                totals = {key: getattr(self._writer, f"num_{key}") for key in ("tokens", "sentences", "documents")}
                shard = {"file": path.name, "bytes": path.stat().st_size, "crc32c": file_crc(path), **totals}
            self._job.shards.append(shard)
            for key, value in totals.items():
                setattr(self._job.counts, key, getattr(self._job.counts, key) + value)
            self._writer = self._file = None
        self._job.save()

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


def _already_finished(manifest: Manifest, settings: dict[str, Any], spans: list[Span], part: int) -> Manifest:
    _check_same(manifest.directory, settings, manifest.data["settings"])
    _check_text(manifest.directory, spans, manifest.data["span_crcs"][part - 1], None)
    _sweep(manifest.directory)
    print(f"{manifest.directory}: already prepared from this input with these settings; nothing to do")
    return manifest


def _check_same(directory: Path, settings: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in json.loads(json.dumps(settings)).items():
        if other.get(key) != value:
            raise UserError(
                f"output {directory} holds a run with {key}={other.get(key)}, not {value}; "
                "use the same input and settings, or another output"
            )


def _check_text(directory: Path, spans: list[Span], crcs: list[int], until: Position | None) -> None:
    """Refuse input whose text, up to a position or to its end, is not what the folder was made of."""
    if until is not None:
        until_span = replace(spans[until.span], end=until.offset)
        spans, crcs = [*spans[: until.span], until_span], crcs[: until.span + 1]
    for span, crc in zip(spans, crcs, strict=True):
        if _text_crc(span) != crc:
            raise UserError(
                f"input {span.path} is not the text that {directory} was made from; give that text, or another output"
            )


def _text_crc(span: Span) -> int:
    crc, left = 0, (1 << 62) if span.end is None else span.end - span.start
    with open_text(span.path, span.start) as file:
        while block := file.read(min(left, CHUNK_BYTES)):
            crc, left = crc32c(block, crc), left - len(block)
    return crc


def _read_progress(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"output {path}: {error}; delete the folder and prepare it again") from None


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _sweep(directory: Path) -> None:
    """Remove what only an unfinished folder needs."""
    for pattern in ("progress-*.json", "*.lock", "*.partial"):
        for path in directory.glob(pattern):
            with suppress(OSError):
                path.unlink()


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"output {error.filename or directory}: {reason}; finished shards stay, and the same command goes on"
        ) from None


@contextmanager
def _locked(directory: Path, label: str) -> Iterator[None]:
    """Keep a second run of the same part out; the system lifts the lock when this process ends, however it ends."""
    with _writing(directory):
        file = open(directory / f"{label}.lock", "wb")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"output {directory}: another run is writing {label}; wait for it or stop it") from None
        except OSError:
            note(f"{directory} is on a file system without locks; see that no part runs twice at a time")
        yield


@contextmanager
def _progress(spans: list[Span]) -> Iterator[Callable[[int, int], None]]:
    """A live line on standard error; gives a function of the bytes and tokens so far."""
    total = None if any(span.end is None for span in spans) else sum((span.end or 0) - span.start for span in spans)
    columns = (
        TextColumn("preparing"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    first: tuple[int, int] | None = None
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, text="")

        def show(done: int, tokens: int) -> None:
            nonlocal first
            first = first or (done, tokens)
            seconds = max(time.monotonic() - began, 1e-9)
            rates = f"{(done - first[0]) / 1e6 / seconds:.1f} MB/s, {(tokens - first[1]) / seconds:,.0f} tokens/s"
            progress.update(task, completed=done, text=f"{done / 1e6:,.0f} MB, {tokens:,} tokens, {rates}")

        yield show
