"""Shards to batches: `python -m bench.bench_loader [--json] [--tokens N] [--quick]`.

Measures tokens per CPU second, special tokens included, over all threads with Python, planning and reading, after a
first epoch of warm-up. Baselines on the same tokens in the same run:

- a numpy loop that only copies the same number of bytes into the same arrays (one thread), as the upper limit;
- albert_pytorch's rules in plain Python (bench_prepare.py) with JSON written and read, without tokenization;
- HuggingFace's masking collator, plain and whole-word, on full sequences in batches of 32.

Also measures packing, the time to the first batch of 10 and 100 GB, and the cost of a seek. The text is synthetic,
since the work depends only on lengths and word starts. Results go to bench/results/loader.json.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

from albert_fast.data.batches import PretrainingLoader
from albert_fast.data.shards import MAX_PAGE_TOKENS, ShardWriter
from albert_fast.data.tokenizer import SPECIAL_TOKENS
from albert_fast.files import strict_json
from albert_fast.text_tables import number_table
from bench.bench_prepare import chunks, make_example

RESULTS = Path(__file__).parent / "results" / "loader.json"
VOCAB_SIZE, NUM_NOT_ORDINARY = 21_128, 106
TOKENS_PER_BATCH = 16_384
PEERS = ("albert_pytorch", "huggingface", "huggingface_whole_word")
VOCABULARY: Any = SimpleNamespace(
    vocab_size=VOCAB_SIZE, is_ordinary=np.arange(VOCAB_SIZE) >= NUM_NOT_ORDINARY, pad_id=0, unk_id=100, cls_id=101,
    sep_id=102, mask_id=103, fingerprint=bytes(32),
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Ranges (uniform) of sentences per document and tokens per sentence, and the share of tokens that begin a word."""

    sentences: tuple[int, int] = (5, 60)
    tokens: tuple[int, int] = (5, 45)
    word_start_prob: float = 1.0

    def document(self, rng: np.random.Generator) -> np.ndarray:
        """The number of tokens of each sentence of a random document."""
        count = rng.integers(*self.sentences, endpoint=True)
        return rng.integers(*self.tokens, count, endpoint=True)


CORPORA = {
    "characters": Shape(),
    "words": Shape(word_start_prob=0.75),
    "every sentence a document": Shape(sentences=(1, 1)),
}


def write_corpus(path: Path, shape: Shape, num_tokens: int) -> None:
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        writer = ShardWriter(file, VOCABULARY, segmented=False)
        while writer.num_tokens < num_tokens:
            lengths: list[np.ndarray] = []
            total = 0
            while True:
                document = shape.document(rng)
                if total + document.sum() > min(MAX_PAGE_TOKENS, num_tokens):
                    break
                lengths.append(document)
                total += int(document.sum())
            first = np.concatenate([np.arange(len(document)) == 0 for document in lengths])
            sentences = np.concatenate(lengths)
            ids = rng.integers(NUM_NOT_ORDINARY, VOCAB_SIZE, total)
            ids[rng.random(total) < 0.002] = VOCABULARY.unk_id
            starts = rng.random(total) < shape.word_start_prob
            starts[np.concatenate(([0], np.cumsum(sentences)[:-1]))] = True
            writer.write_page(ids, starts, sentences, first)
        writer.finish()


def loader(shards: list[Path], max_seq_length: int, threads: int = 1, **options: Any) -> PretrainingLoader:
    settings = {"tokens_per_batch": TOKENS_PER_BATCH, "seed": 1} | options
    return PretrainingLoader(list(shards), max_seq_length=max_seq_length, threads=threads, **settings)


def loader_rates(shard: Path, max_seq_length: int, threads: int, epochs: int) -> tuple[float, float, dict[str, Any]]:
    """(tokens per CPU second, tokens per second, statistics) over the `epochs` epochs after the first."""
    with loader([shard], max_seq_length, threads) as stream:
        batch = next(stream)
        while batch.epoch == 0:
            batch = next(stream)
        cpu, wall, tokens = time.process_time(), time.perf_counter(), 0
        while batch.epoch <= epochs:
            tokens += batch.num_tokens
            batch = next(stream)
        return tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall), stream.statistics()


def copy_rate(shard: Path, max_seq_length: int) -> float:
    """Tokens per CPU second of copying the bytes that the loader reads and writes, into buffers used in rotation."""
    with loader([shard], max_seq_length) as stream:
        templates = [next(stream) for _ in range(6)]
        targets = [next(stream) for _ in range(6)]
    pages = np.fromfile(shard, np.uint16, offset=256)
    count = len(pages) // TOKENS_PER_BATCH
    names = ("cu_seqlens", "masked_lm_positions", "masked_lm_ids", "masked_lm_weights", "token_type_ids",
             "position_ids", "sentence_order_labels", "sentence_order_weights")  # fmt: skip
    pairs = [[(getattr(b, name), getattr(a, name)) for name in names] for a, b in zip(templates, targets, strict=True)]
    cpu = time.process_time()
    for i in range(count):
        np.copyto(targets[i % 6].input_ids, pages[i * TOKENS_PER_BATCH : (i + 1) * TOKENS_PER_BATCH])
        for target, source in pairs[i % 6]:
            np.copyto(target, source)
    return count * TOKENS_PER_BATCH / (time.process_time() - cpu)


def albert_pytorch_rate(shape: Shape, max_seq_length: int, num_tokens: int) -> float:
    """Text tokens per CPU second of albert_pytorch's rules: chunks, masks, JSON write and read, int64 arrays."""
    rng, sizes = random.Random(1), np.random.default_rng(1)
    words = [f"w{i}" for i in range(VOCAB_SIZE)]
    index = {word: i for i, word in enumerate(words)} | {"[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    documents, total = [], 0
    while total < num_tokens:
        lengths = shape.document(sizes)
        documents.append([[words[i] for i in sizes.integers(NUM_NOT_ORDINARY, VOCAB_SIZE, n)] for n in lengths])
        total += int(lengths.sum())
    max_predictions = round(0.15 * max_seq_length)
    cpu = time.process_time()
    for document in documents:
        for a, b, label in chunks(document, rng, max_seq_length):
            example = json.loads(json.dumps(make_example(a, b, label, words, rng, max_predictions)))
            ids = np.zeros(max_seq_length, np.int64)
            ids[: len(example["tokens"])] = [index[token] for token in example["tokens"]]
            targets = np.full(max_seq_length, -1, np.int64)
            targets[example["masked_lm_positions"]] = [index[token] for token in example["masked_lm_labels"]]
    return total / (time.process_time() - cpu)


def huggingface_rate(shape: Shape, max_seq_length: int, num_tokens: int, whole_word: bool) -> float:
    """Tokens per CPU second of HuggingFace's masking collator on full sequences in batches of 32."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(VOCAB_SIZE - 5)}
    for special in SPECIAL_TOKENS:
        vocabulary[special] = len(vocabulary)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")),
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer, whole_word_mask=whole_word, return_tensors="np", seed=1)
    rng = np.random.default_rng(2)
    specials = np.zeros(max_seq_length, np.int64)
    specials[[0, max_seq_length // 2, -1]] = 1
    features = []
    for _ in range(-(-num_tokens // max_seq_length)):
        begins = np.cumsum(
            1 + (rng.random(max_seq_length) < shape.word_start_prob)
        )  # a gap in the offsets begins a new word
        feature: dict[str, np.ndarray] = {"special_tokens_mask": specials}
        feature["input_ids"] = rng.integers(0, 20_000, max_seq_length)
        if whole_word:
            feature["offset_mapping"] = np.stack([begins, begins + 1], axis=1)
        features.append(feature)
    collator([dict(feature) for feature in features[:32]])  # warm-up
    cpu = time.process_time()
    for i in range(0, len(features), 32):
        collator([dict(feature) for feature in features[i : i + 32]])
    return len(features) * max_seq_length / (time.process_time() - cpu)


def first_batch_seconds(shard: Path, folder: Path, gigabytes: float) -> float:
    """Seconds from the constructor to the first batch; one shard is hard-linked often enough to reach the size."""
    count = round(gigabytes * 1e9 / shard.stat().st_size)
    names = [folder / f"{gigabytes:g}-{i:05d}.bin" for i in range(count)]
    for name in names:
        os.link(shard, name)
    begin = time.perf_counter()
    with loader(names, 128, threads=2) as stream:
        next(stream)
        return time.perf_counter() - begin


def seek(shard: Path, epochs: int = 8) -> dict[str, float]:
    """Milliseconds to reach a batch by its cursor, and by its number, which replans the `epochs` epochs before it."""
    with loader([shard], 128) as stream:
        while next(stream).epoch == 0:
            pass
        per_epoch = stream.statistics()["batches"] - 1
        sentences = stream.corpus.num_sentences * epochs / 1e6
    target = epochs * per_epoch + per_epoch // 4
    with loader([shard], 128, start_batch=target - 1) as stream:
        next(stream)
        cursor = stream.cursor()
    places: dict[str, Any] = {"cursor": cursor, "start_batch": target}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
    for _ in range(5):
        for name, place in places.items():
            begin, cpu = time.perf_counter(), time.process_time()
            with loader([shard], 128, **{name: place}) as stream:
                assert next(stream).index == target
                times[name].append((time.perf_counter() - begin, time.process_time() - cpu))
    cursor_wall, cursor_cpu = (statistics.median(t) * 1e3 for t in zip(*times["cursor"], strict=True))
    number_wall, number_cpu = (statistics.median(t) * 1e3 for t in zip(*times["start_batch"], strict=True))
    return {
        "cursor_milliseconds": cursor_wall,
        "cursor_cpu_milliseconds": cursor_cpu,
        "pass_milliseconds_per_million_sentences": (number_wall - cursor_wall) / sentences,
        "pass_cpu_milliseconds_per_million_sentences": (number_cpu - cursor_cpu) / sentences,
    }


def speed_row(shard: Path, name: str, max_seq_length: int, repeats: int, peer_tokens: int) -> dict[str, Any]:
    shape = CORPORA[name]
    rates = [loader_rates(shard, max_seq_length, 1, 2) for _ in range(repeats)]
    one = statistics.median(cpu for cpu, _, _ in rates)
    walls = [(wall, loader_rates(shard, max_seq_length, 2, 2)[1]) for _, wall, _ in rates]
    counts = rates[0][2]
    return {
        "corpus": name,
        "max_seq_length": max_seq_length,
        "tokens_per_cpu_second": one,
        "two_threads_over_one": statistics.median(two / wall for wall, two in walls),
        "copy": statistics.median(copy_rate(shard, max_seq_length) for _ in range(repeats)),
        "albert_pytorch": albert_pytorch_rate(shape, max_seq_length, peer_tokens),
        "huggingface": huggingface_rate(shape, max_seq_length, peer_tokens, False),
        "huggingface_whole_word": huggingface_rate(shape, max_seq_length, peer_tokens // 4, True),
        "unused_tokens": counts["unused_tokens"] / counts["tokens"],
        "unused_predictions": counts["unused_predictions"] / counts["predictions"],
        "closed_by": counts["closed_by"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the results as one JSON document")
    parser.add_argument("--tokens", type=int, default=40_000_000, help="tokens of each corpus (default: 40,000,000)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions; the median counts (default: 5)")
    parser.add_argument("--quick", action="store_true", help="small corpora, one repetition, nothing saved")
    options = parser.parse_args()
    tokens, repeats = (2_000_000, 1) if options.quick else (options.tokens, options.repeats)
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {
        "tokens_per_batch": TOKENS_PER_BATCH, "machine": platform.processor() or platform.machine(),
        "load_average": os.getloadavg()[0],
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (corpus, shape) in enumerate(CORPORA.items()):
            shard = folder / f"{number}.bin"
            write_corpus(shard, shape, tokens)
            rows += [speed_row(shard, corpus, length, repeats, min(tokens, 400_000)) for length in (128, 512)]
        shard = folder / "0.bin"
        results["seek"] = seek(shard)
        sizes = (0.1,) if options.quick else (10.0, 100.0)
        results["first_batch_seconds"] = {f"{size:g} GB": first_batch_seconds(shard, folder, size) for size in sizes}
    results["rows"] = rows
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(strict_json(results, indent=1) + "\n")
    if options.json:
        print(strict_json(results))
        return
    console = Console(width=140)
    columns = ("corpus", "S", "loader", "copy loop", "of copy", "albert_pytorch", "HF", "HF whole word", "2 threads",
               "T unused", "P unused", "closed by tokens/seqs/preds/end")  # fmt: skip
    title = f"Loader, millions of tokens per CPU second, batches of {TOKENS_PER_BATCH:,} tokens"
    table = number_table(title, columns)
    for row in rows:
        rate = row["tokens_per_cpu_second"]
        peers = [f"{row[p] / 1e6:.2f} ({rate / row[p]:,.0f}x)" for p in PEERS]
        closed = "/".join(str(row["closed_by"][key]) for key in ("tokens", "sequences", "predictions", "end_of_group"))
        table.add_row(row["corpus"], str(row["max_seq_length"]), f"{rate / 1e6:.0f}", f"{row['copy'] / 1e6:.0f}",
                      f"{rate / row['copy']:.2f}", *peers, f"{row['two_threads_over_one']:.2f}x",
                      f"{row['unused_tokens']:.2%}", f"{row['unused_predictions']:.2%}", closed)  # fmt: skip
    console.print(table)
    console.print({key: value for key, value in results.items() if key != "rows"})


if __name__ == "__main__":
    main()
