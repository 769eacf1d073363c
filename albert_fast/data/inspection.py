"""`inspect`: shows examples that the loader makes from a prepared folder, and statistics of the first batches."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from albert_fast.config import DataConfig
from albert_fast.data.batches import Batch, PretrainingLoader
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.manifest import open_folder
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.files import strict_json
from albert_fast.options import Options, option
from albert_fast.text_tables import number_table

_STYLES = {"[MASK]": "bold red", "kept": "bold yellow", "random": "bold magenta"}


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Options):
    """What to show."""

    data: str = option(help="prepared folder", positional=True)
    examples: int = option(3, "examples to print", at_least=0)
    batches: int = option(20, "number of batches for the statistics", at_least=1)
    seed: int = option(42, "seed of the stream of batches")
    json: bool = option(False, "print only the statistics, as one JSON document")


def inspect(options: InspectOptions, data: DataConfig) -> None:
    """Print examples of a prepared folder with coloured masks, and statistics of the first batches."""
    tokenizer = load_tokenizer(open_folder(options.data).directory / "tokenizer.json")
    with PretrainingLoader(options.data, seed=options.seed, threads=data.loader_threads, **data.settings()) as loader:
        batches = list(islice(loader, options.batches))
        statistics = batch_statistics(batches, tokenizer) | {"closed_by": loader.statistics()["closed_by"]}
    if options.json:
        print(strict_json(statistics, indent=2))
        return
    console = Console()
    sequences = ((batch, index) for batch in batches for index in range(batch.num_sequences))
    for number, (batch, index) in enumerate(islice(sequences, options.examples), 1):
        _print_example(console, f"example {number}", batch, index, tokenizer)
    _print_statistics(console, statistics)


def original_ids(batch: Batch) -> np.ndarray:
    """The batch's input_ids [T] before masking."""
    ids = batch.input_ids.copy()
    used = batch.masked_lm_weights > 0
    ids[batch.masked_lm_positions[used]] = batch.masked_lm_ids[used]
    return ids


def batch_statistics(batches: list[Batch], tokenizer: Tokenizer) -> dict[str, Any]:
    """Counts and rates over batches; a word begins at a token without ##, regardless of any segmenter."""
    total: Counter[str] = Counter()
    runs: Counter[int] = Counter()
    never = np.array(sorted(tokenizer.special_ids))
    for batch in batches:
        used = batch.masked_lm_weights > 0
        positions, labels = batch.masked_lm_positions[used], batch.masked_lm_ids[used]
        shown, original = batch.input_ids[positions], original_ids(batch)
        total["tokens"] += len(batch.input_ids)
        total["unused_tokens"] += len(batch.input_ids) - batch.num_tokens
        total["slots"] += len(used)
        total["unused_slots"] += len(used) - batch.num_predictions
        total["sequences"] += batch.num_sequences
        total["maskable"] += int(np.isin(original[: batch.num_tokens], never, invert=True).sum())
        total["masked"] += len(positions)
        total["mask"] += int((shown == tokenizer.mask_id).sum())
        total["kept"] += int((shown == labels).sum())
        ordered = batch.sentence_order_weights > 0
        total["ordered"] += int(ordered.sum())
        total["swapped"] += int(batch.sentence_order_labels[ordered].sum())
        runs.update(_runs(original, positions, tokenizer))
    random = total["masked"] - total["mask"] - total["kept"]
    lengths = {str(n): runs[n] for n in (1, 2, 3)} | {"more": sum(c for n, c in runs.items() if n > 3)}
    return {
        "batches": len(batches),
        "sequences": total["sequences"],
        "tokens": total["tokens"] - total["unused_tokens"],
        "unused_token_share": _share(total["unused_tokens"], total["tokens"]),
        "predictions": total["masked"],
        "unused_slot_share": _share(total["unused_slots"], total["slots"]),
        "mask_rate": _share(total["masked"], total["tokens"] - total["unused_tokens"]),
        "mask_rate_of_maskable": _share(total["masked"], total["maskable"]),
        "replaced_by_mask": _share(total["mask"], total["masked"]),
        "kept": _share(total["kept"], total["masked"]),
        "replaced_by_random": _share(random, total["masked"]),
        "label_1_rate": _share(total["swapped"], total["ordered"]),
        "masked_run_words": {n: _share(count, sum(runs.values())) for n, count in lengths.items()},
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 5) if whole else None


def _runs(original: np.ndarray, positions: np.ndarray, tokenizer: Tokenizer) -> list[int]:
    """Lengths, in words, of runs of adjacent masked tokens."""
    positions = np.sort(positions)
    breaks = np.flatnonzero(np.diff(positions) > 1) + 1
    starts = tokenizer.begins_word[original[positions]]
    return [max(int(run.sum()), 1) for run in np.split(starts, breaks)] if len(positions) else []


def _print_example(console: Console, title: str, batch: Batch, index: int, tokenizer: Tokenizer) -> None:
    begin, end = int(batch.cu_seqlens[index]), int(batch.cu_seqlens[index + 1])
    original = original_ids(batch)
    used = batch.masked_lm_positions[batch.masked_lm_weights > 0]
    masked = set(used[(used >= begin) & (used < end)].tolist())
    label = "no label"
    if batch.sentence_order_weights[index] > 0:
        label = ("label 0: in order", "label 1: swapped")[int(batch.sentence_order_labels[index])]
    console.rule(f"{title}: {end - begin} tokens, {len(masked)} masked, {label}", align="left")
    line = Text()
    for position in range(begin, end):
        token, shown = tokenizer.tokens[original[position]], tokenizer.tokens[batch.input_ids[position]]
        if position not in masked:
            line.append(f"{token} ")
            continue
        kind = "[MASK]" if batch.input_ids[position] == tokenizer.mask_id else "kept" if shown == token else "random"
        line.append(f"{token}→{shown if kind == 'random' else kind}", _STYLES[kind]).append(" ")
    console.print(line, soft_wrap=True)
    segments = np.split(original[begin:end], np.flatnonzero(np.diff(batch.token_type_ids[begin:end])) + 1)
    for name, segment in zip("AB", segments, strict=False):
        console.print(Text(f"{name}: {tokenizer.decode(segment.tolist())}", "dim"), soft_wrap=True)


def _print_statistics(console: Console, statistics: dict[str, Any]) -> None:
    table = number_table(f"The first {statistics['batches']} batches", ("statistic", "value", "expected"))
    table.title_justify = "left"
    rows: list[tuple[str, Any, str]] = [
        ("sequences", statistics["sequences"], ""),
        ("tokens", statistics["tokens"], ""),
        ("unused tokens", statistics["unused_token_share"], "0"),
        ("unused prediction slots", statistics["unused_slot_share"], "0"),
        ("masked tokens", statistics["mask_rate"], "masked_lm_prob"),
        ("masked tokens of the maskable", statistics["mask_rate_of_maskable"], "somewhat more"),
        ("... shown as [MASK]", statistics["replaced_by_mask"], "0.80"),
        ("... kept", statistics["kept"], "0.10"),
        ("... replaced at random", statistics["replaced_by_random"], "0.10"),
        ("label 1 (swapped)", statistics["label_1_rate"], "0.50"),
        *((f"masked runs of {n} words", share, "") for n, share in statistics["masked_run_words"].items()),
        *((f"batches closed by {reason}", count, "") for reason, count in statistics["closed_by"].items()),
    ]
    for name, value, expected in rows:
        text = "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        table.add_row(name, text, expected)
    console.print(table)
