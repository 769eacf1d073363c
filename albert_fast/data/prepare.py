"""`prepare`: tokenizes raw text into a prepared folder once, in bounded memory, with several processes or jobs.

The input of a part is a list of spans. Its chunks are encoded in order, gathered into pages, and written as shards. A
shard is closed at the end of a chunk, and a small progress file records that position after every shard, which is all a
resumed run needs. The run that finds all parts complete merges them by writing the manifest.
"""

import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from albert_fast._loader import crc32c
from albert_fast.data.input_files import InputFile, expand, file_bytes, input_files, spooled
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.manifest import FORMAT, MANIFEST, VERSION, Manifest, open_folder, write_manifest
from albert_fast.data.progress import Counts, Progress, check_settings, check_text, read_progress, sweep
from albert_fast.data.sentences import icu_version
from albert_fast.data.text import Span, part_spans
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.data.vocabulary import train_vocabulary
from albert_fast.data.workers import Recipe, load_segmenter
from albert_fast.data.write_part import encode_part
from albert_fast.files import locked, writing
from albert_fast.options import Options, UserError, note, option

WORKER_BYTES = 1 << 23  # about one second of work; starting a worker takes 0.2 s


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """Input text (one sentence per line, a blank line between documents) and output folder."""

    input: tuple[str, ...] = option(
        help="text files, folders of text files, or - for standard input; .gz, .zst, Parquet, Arrow and folders of "
        "HuggingFace datasets are read directly"
    )
    output: str = option(help="folder to write; an interrupted run resumes where it stopped")
    vocab: str | None = option(None, "vocab.txt, tokenizer.json, SentencePiece model, or a folder with one of these")
    train_vocab: int | None = option(None, "train a WordPiece vocabulary of this many tokens on the input instead")
    lowercase: bool | None = option(
        None, "lowercase the text and strip accents (default: yes; a tokenizer.json decides itself)"
    )
    strip_accents: bool | None = option(
        None, "strip accents (default: if the text is lowercased; never those of Japanese and Korean)"
    )
    segmenter: Literal["none", "jieba"] = option("none", "jieba: mask whole Chinese words, as segmented by jieba")
    json_field: str | None = option(
        None, "input has one JSON object per line, with the text of a document in this field"
    )
    columns: tuple[str, ...] = option(
        (), "for tables, the columns with the text of a document (default: text, or the only one)"
    )
    split_sentences: bool = option(False, "the text has one paragraph per line: split it into sentences with ICU")
    workers: int = option(0, "tokenizing processes (0: one per core)", at_least=0)
    part: str = option("1/1", "i/n: process the i-th of n parts; the run that finds all n complete merges them")
    shard_tokens: int = option(
        1 << 26, "tokens per shard; an interrupted run resumes after the last complete shard", at_least=1
    )


def prepare(options: PrepareOptions) -> Manifest | None:
    """Tokenize text into a folder of shards; an interrupted run resumes where it stopped. Prints a summary.

    Returns:
        The manifest of the finished folder; None while other parts are missing.

    Raises:
        UserError: bad options or input, the folder of another run, or a full disk.
    """
    part, parts = _check(options)
    directory = Path(options.output)
    with spooled(options.input, directory) as paths:
        files = input_files(expand(paths, directory), options.json_field, options.columns)
        return _prepare(options, files, part, parts)


def _prepare(options: PrepareOptions, files: tuple[InputFile, ...], part: int, parts: int) -> Manifest | None:
    directory = Path(options.output)
    spans = part_spans(files, part, parts)
    tokenizer = (
        None if options.vocab is None else load_tokenizer(options.vocab, options.lowercase, options.strip_accents)
    )
    if options.segmenter != "none" and tokenizer and not tokenizer.is_wordpiece:
        raise UserError(f"segmenter={options.segmenter} needs a WordPiece vocabulary, where an ideograph is a token")
    settings = _settings(options, files, parts, tokenizer)
    if (directory / MANIFEST).exists():
        return _already_finished(open_folder(directory), settings, spans, part)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, f"part-{part:04d}-of-{parts:04d}"):
        progress = Progress(directory, settings, spans, part, parts)
        progress.load()
        if not progress.complete:
            tokenizer = tokenizer or _trained(options, files, directory)
            tokenizer.save(directory)
            recipe = Recipe(tokenizer.backend.to_str(), options.json_field, options.segmenter, options.split_sentences)
            _note_capitals(tokenizer)
            began, before = time.monotonic(), replace(progress.counts)
            unknown = encode_part(progress, tokenizer, recipe, options.workers or _fitting_workers(files))
            _report(progress, time.monotonic() - began, before, unknown)
        return _merge(progress)


def _check(options: PrepareOptions) -> tuple[int, int]:
    if not options.input:
        raise UserError("input names no file; give one or more text files")
    if (options.vocab is None) == (options.train_vocab is None):
        raise UserError("give either vocab (a vocab.txt or tokenizer.json) or train_vocab (a size), and not both")
    load_segmenter(options.segmenter)
    part, _, parts = options.part.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts) <= 9999):
        raise UserError(f"part={options.part!r} must be i/n with 1 <= i <= n <= 9999, such as 3/8")
    if "-" in options.input and parts != "1":
        raise UserError(f"part={options.part} needs files that every part can read; give files in place of -")
    return int(part), int(parts)


def _fitting_workers(files: tuple[InputFile, ...]) -> int:
    """One process per core, but only as many as have at least a second of work."""
    return min(len(os.sched_getaffinity(0)), 1 + sum(file_bytes(file.path) for file in files) // WORKER_BYTES)


def _settings(
    options: PrepareOptions, files: tuple[InputFile, ...], parts: int, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Everything besides the text that determines the folder's bytes."""
    segmenter: str = options.segmenter
    if segmenter == "jieba":
        segmenter = f"jieba {metadata.version('jieba')}"
    more: dict[str, Any] = {}
    columns = [list(file.columns) for file in files]
    if any(columns):
        more["columns"] = columns
    if options.train_vocab and options.strip_accents is not None:
        more["strip_accents"] = options.strip_accents
    if options.split_sentences:
        more["split_sentences"] = f"ICU {icu_version()}"
    return {
        "input": [[Path(file.path).name, file_bytes(file.path)] for file in files],
        "json_field": options.json_field,
        "parts": parts,
        "segmenter": segmenter,
        "shard_tokens": options.shard_tokens,
        "train_vocab": options.train_vocab
        and {"size": options.train_vocab, "lowercase": options.lowercase is not False},
        "vocab_crc32c": tokenizer and crc32c(tokenizer.files()["tokenizer.json"]),
        **more,
    }


def _trained(options: PrepareOptions, files: tuple[InputFile, ...], directory: Path) -> Tokenizer:
    if (directory / "tokenizer.json").exists():  # made by an interrupted run, or by another part
        return load_tokenizer(directory / "tokenizer.json")
    size, lowercase = int(options.train_vocab or 0), options.lowercase is not False
    accents = options.strip_accents
    return train_vocabulary(files, size, lowercase=lowercase, strip_accents=accents, json_field=options.json_field)


def _merge(progress: Progress) -> Manifest | None:
    """Write the manifest if every part is complete."""
    directory, parts = progress.directory, range(1, progress.parts + 1)
    saved = {part: read_progress(progress.file(part)) for part in parts}
    if (directory / MANIFEST).exists():  # another part was faster
        return open_folder(directory)
    missing = [part for part in parts if not saved[part].get("complete")]
    if missing:
        print(f"part {progress.part}/{progress.parts} is complete; still missing: {_ranges(missing)}")
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
    write_manifest(directory, manifest)
    sweep(directory)
    size = sum(shard["bytes"] for shard in manifest["shards"])
    print(f"{directory}: {len(manifest['shards'])} shards, {size / 1e6:,.1f} MB, {totals['tokens']:,} tokens")
    return open_folder(directory)


def _already_finished(manifest: Manifest, settings: dict[str, Any], spans: list[Span], part: int) -> Manifest:
    check_settings(settings, manifest.data["settings"])
    check_text(manifest.directory, spans, manifest.data["span_crcs"][part - 1], None)
    sweep(manifest.directory)
    print(f"{manifest.directory}: already prepared from this input with these settings; nothing to do")
    return manifest


def _report(progress: Progress, seconds: float, before: Counts, words: Counter[str]) -> None:
    """Print a summary of a part with this run's speed, and notes on anything suspicious in the text.

    Args:
        words: counts of words not in the vocabulary, in this run.
    """
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
        most = ", ".join(f"{word!r} {count:,}" for word, count in words.most_common(8))
        note(f"{unknown:.1%} of the tokens are unknown, most often {most}: does the vocabulary fit this text?")
    if counts.documents > 1 and counts.sentences < 1.1 * counts.documents:
        remedy = "" if "split_sentences" in progress.settings else ", or give --split_sentences"
        note(
            "documents have about one sentence, so both segments of an example come from the same sentence; put one "
            f"sentence per line and a blank line between documents{remedy}"
        )
    if progress.settings["json_field"] is None and counts.tokens and not counts.blank_lines:
        note("the text has no blank lines, so every file is one document; put a blank line between documents")


def _note_capitals(tokenizer: Tokenizer) -> None:
    ordinary = (token for token, keep in zip(tokenizer.tokens, tokenizer.is_ordinary, strict=True) if keep)
    capitals = sum(token.lower() != token for token in ordinary)
    if tokenizer.is_lowercase and capitals > tokenizer.vocab_size // 100:
        note(f"{capitals} tokens of the vocabulary have capitals but the text is lowercased; see --no-lowercase")


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
