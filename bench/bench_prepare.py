"""Text to training data: `python -m bench.bench_prepare [--json] [--megabytes N] [--input FILE --vocab FILE]`.

Ours writes shards from which the loader draws new examples in every epoch. albert_pytorch writes one epoch of finished
examples as JSON; its rules are reimplemented here in plain Python from a description of their behavior: BERT's basic
tokenizer, greedy WordPiece, chunks of sentences truncated to the length, n-gram masks over shuffled positions. Rates
are per CPU second including child processes; ratios are relative to albert_pytorch's rules.
"""

import argparse
import os
import platform
import random
import re
import resource
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tokenizers
from rich.console import Console

from albert_fast.data.input_files import input_files
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.data.vocabulary import train_vocabulary
from albert_fast.data.wordpiece import IDEOGRAPH, WordPieceCache
from albert_fast.files import strict_json
from albert_fast.text_tables import number_table
from bench.corpus import prepare_quietly

MAX_SEQ_LENGTH, MAX_NGRAM, MASKED_LM_PROB, MAX_PREDICTIONS, SHORT_SEQ_PROB = 128, 3, 0.15, 20, 0.1


def basic_tokens(line: str) -> list[str]:
    """BERT's basic tokenizer: clean, isolate ideographs, lowercase, strip accents, split at spaces and punctuation."""
    out = []
    for c in line:
        category = unicodedata.category(c)
        if c in "\t\n\r" or category == "Zs":
            out.append(" ")
        elif category[0] != "C" and c != "\ufffd":
            out.append(f" {c} " if IDEOGRAPH.match(c) else c)
    tokens = []
    for word in "".join(out).split():
        piece = ""
        for c in unicodedata.normalize("NFD", word.lower()):
            category = unicodedata.category(c)
            if category == "Mn":
                continue
            if category[0] == "P" or (c.isascii() and not c.isalnum()):
                tokens += [piece, c]
                piece = ""
            else:
                piece += c
        tokens.append(piece)
    return [token for token in tokens if token]


def wordpieces(word: str, vocabulary: dict[str, int]) -> list[str]:
    """Greedy longest-match-first WordPiece (Devlin et al. 2018)."""
    pieces, start = [], 0
    while start < len(word) <= 100:
        end = len(word)
        while end > start and (piece := ("##" if start else "") + word[start:end]) not in vocabulary:
            end -= 1
        if end == start:
            return ["[UNK]"]
        pieces.append(piece)
        start = end
    return pieces or ["[UNK]"]


def documents(file: Path, vocabulary: dict[str, int]) -> Iterator[list[list[str]]]:
    document: list[list[str]] = []
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            tokens = [piece for word in basic_tokens(line) for piece in wordpieces(word, vocabulary)]
            if tokens:
                document.append(tokens)
            elif document:
                yield document
                document = []
    if document:
        yield document


def chunks(
    document: list[list[str]], rng: random.Random, max_seq_length: int = MAX_SEQ_LENGTH
) -> Iterator[tuple[list[str], list[str], int]]:
    """Pairs for sentence order; a chunk of one sentence is paired with itself, and long pairs are truncated."""
    room = max_seq_length - 3
    target = rng.randint(2, room) if rng.random() < SHORT_SEQ_PROB else room
    chunk: list[list[str]] = []
    for index, sentence in enumerate(document):
        chunk.append(sentence)
        if index < len(document) - 1 and sum(map(len, chunk)) < target:
            continue
        cut = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
        a = [token for part in chunk[:cut] for token in part]
        b = [token for part in chunk[cut:] for token in part] if len(chunk) > 1 else list(a)
        label = int(rng.random() < 0.5)
        a, b = (b, a) if label else (a, b)
        while len(a) + len(b) > room:
            longer = a if len(a) > len(b) else b
            longer.pop(0 if rng.random() < 0.5 else -1)
        yield a, b, label
        chunk = []


def mask(
    tokens: list[str], words: list[str], rng: random.Random, max_predictions: int = MAX_PREDICTIONS
) -> tuple[list[int], list[str]]:
    """Mask n-grams at shuffled positions until the budget is reached or exceeded; (positions, original tokens)."""
    weights = [1 / n for n in range(1, MAX_NGRAM + 1)]
    order = [i for i, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]")]
    rng.shuffle(order)
    budget = min(max_predictions, max(1, round(len(tokens) * MASKED_LM_PROB)))
    covered: dict[int, str] = {}
    for start in order:
        if len(covered) >= budget:
            break
        n = rng.choices(range(1, MAX_NGRAM + 1), weights)[0]
        for position in range(start, min(start + n, len(tokens) - 1)):
            if position in covered:
                continue
            covered[position] = tokens[position]
            draw = rng.random()
            if draw < 0.8:
                tokens[position] = "[MASK]"
            elif draw >= 0.9:
                tokens[position] = rng.choice(words)
    positions = sorted(covered)
    return positions, [covered[position] for position in positions]


def make_example(
    a: list[str], b: list[str], label: int, words: list[str], rng: random.Random, max_predictions: int = MAX_PREDICTIONS
) -> dict[str, Any]:
    """A masked example of a pair, with albert_pytorch's field names."""
    tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
    types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    positions, labels = mask(tokens, words, rng, max_predictions)
    example = {"tokens": tokens, "segment_ids": types, "is_random_next": label}
    return example | {"masked_lm_positions": positions, "masked_lm_labels": labels}


def albert_pytorch_rules(file: Path, tokenizer: Tokenizer, output: Path) -> int:
    """Write one epoch of examples as JSON lines; returns the number of tokens in the text."""
    vocabulary = {token: index for index, token in enumerate(tokenizer.tokens)}
    words, rng, total = list(vocabulary), random.Random(42), 0
    with open(output, "w", encoding="utf-8") as out:
        for document in documents(file, vocabulary):
            total += sum(map(len, document))
            for a, b, label in chunks(document, rng):
                out.write(strict_json(make_example(a, b, label, words, rng)) + "\n")
    return total


def cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def sample_text(folder: Path, language: str, megabytes: float) -> tuple[Path, Path]:
    """(text, vocabulary): CPython's documentation, or sentences of jieba's words drawn by frequency."""
    file, vocab = folder / f"{language}.txt", folder / f"{language}-vocab"
    size = int(megabytes * 1e6)
    if language == "english":
        from pydoc_data.topics import topics

        blocks = [re.sub(r"\n\s*\n", "\n", text).strip() for text in topics.values()]
    else:
        import jieba

        rng = random.Random(0)
        with jieba.get_dict_file() as entries:
            rows = [line.decode("utf-8").split() for line in entries]
        words, weights = [row[0] for row in rows], [int(row[1]) for row in rows]
        drawn = rng.choices(words, weights, k=50_000)
        sentences = ["".join(drawn[i : i + 12]) + "。" for i in range(0, len(drawn), 12)]
        blocks = ["\n".join(sentences[i : i + 10]) for i in range(0, len(sentences), 10)]
    unit = "\n\n".join(blocks) + "\n\n"
    file.write_text(unit * max(1, size // len(unit.encode())), encoding="utf-8")
    train_vocabulary(input_files((str(file),)), 8000).save(vocab)
    return file, vocab / "vocab.txt"


def measure(file: Path, vocab: Path, name: str) -> list[dict[str, object]]:
    """Time every method on `file`, one after another; all must produce the same number of tokens."""
    tokenizer, size = load_tokenizer(vocab), file.stat().st_size
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)

        def ours(output: str, **options: Any) -> int:
            return prepare_quietly(file, out / output, vocab=str(vocab), **options).tokens

        def ours_without_cache() -> int:
            with patch.object(WordPieceCache, "supported", lambda backend: False):
                return ours("0")

        cases: dict[str, Callable[[], int]] = {
            "albert_pytorch's rules": lambda: albert_pytorch_rules(file, tokenizer, out / "examples.json"),
            "ours, HuggingFace alone": ours_without_cache,
            "ours": lambda: ours("1"),
            "ours, 2 workers": lambda: ours("2", workers=2),
        }
        if name == "chinese":
            cases["ours, jieba"] = lambda: ours("jieba", segmenter="jieba")
        for case, call in cases.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            tokens = call()
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            row = {"text": name, "method": case, "megabytes": size / 1e6, "tokens": tokens, "wall_seconds": wall}
            row |= {"megabytes_per_cpu_second": size / 1e6 / cpu, "tokens_per_cpu_second": tokens / cpu}
            row |= {"megabytes_per_second": size / 1e6 / wall}
            rows.append(row)
    for row in rows:
        row["ratio"] = float(row["tokens_per_cpu_second"]) / float(rows[0]["tokens_per_cpu_second"])  # type: ignore[arg-type]
        assert row["tokens"] == rows[0]["tokens"], rows
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--megabytes", type=float, default=8.0, help="size of each sample text in MB (default: 8)")
    parser.add_argument("--input", type=Path, help="use this text instead of the samples; needs --vocab")
    parser.add_argument("--vocab", type=Path, help="uncased vocab.txt for --input")
    options = parser.parse_args()
    if options.input:
        rows = measure(options.input, options.vocab, options.input.name)
    else:
        with tempfile.TemporaryDirectory() as folder:
            texts = {name: sample_text(Path(folder), name, options.megabytes) for name in ("english", "chinese")}
            rows = [row for name, (file, vocab) in texts.items() for row in measure(file, vocab, name)]
    if options.json:
        versions = {"python": platform.python_version(), "tokenizers": tokenizers.__version__}
        print(strict_json({"cores": os.cpu_count(), **versions, "rows": rows}, indent=2))
        return
    columns = ("text", "method", "MB/CPU-s", "tokens/CPU-s", "ratio", "MB/s wall")
    table = number_table("Text to training data (per CPU second, children included)", columns, text_columns=2)
    for row in rows:
        rates = (f"{row['megabytes_per_cpu_second']:.2f}", f"{row['tokens_per_cpu_second']:,.0f}")
        table.add_row(
            str(row["text"]), str(row["method"]), *rates, f"{row['ratio']:.1f}", f"{row['megabytes_per_second']:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
