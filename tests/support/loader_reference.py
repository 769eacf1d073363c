"""Reference implementation of the pretraining stream in plain Python, which csrc/ must match exactly.

A page is a list of sentences (ids, word starts, first of a document), as made by support/shard_writer.py. The code uses
lists and integers only, without bitmaps and threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import NamedTuple

from support.shard_writer import CLS, MASK, NUM_NOT_ORDINARY, PAD, SEP, UNK

from albert_fast.data.batches import PretrainingLoader

MASK_64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
PAGES, DOCUMENTS, SHUFFLE, EXAMPLES = 1, 2, 3, 4
GROUP_PAGES, WINDOW, TRIES = 256, 512, 8
ARRAYS = (
    "input_ids", "token_type_ids", "position_ids", "cu_seqlens", "masked_lm_positions", "masked_lm_ids",
    "masked_lm_weights", "sentence_order_labels", "sentence_order_weights",
)  # fmt: skip


def mix(x: int) -> int:
    x &= MASK_64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK_64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK_64
    return x ^ x >> 31


def draw(start: int, index: int) -> int:
    return mix(start + index * GOLDEN)


def halves(value: int) -> tuple[int, int]:
    return value >> 32, value & 0xFFFFFFFF


def below(n: int, value: int, bits: int = 32) -> int:
    return value * n >> bits


@dataclass
class Rules:
    tokens_per_batch: int
    max_seq_length: int
    max_sequences: int
    sequence_slots: int
    predictions_per_batch: int
    seed: int
    cls_id: int
    sep_id: int
    mask_id: int
    pad_id: int
    unmaskable: frozenset[int]
    ordinary: list[int]
    max_ngram: int = 3
    masked_lm_prob: str = "0.15"
    max_predictions: int = 10**9
    short_seq_prob: str = "0.1"
    sentence_order: bool = True

    @property
    def specials(self) -> int:
        return 3 if self.sentence_order else 2

    @property
    def most(self) -> int:
        return self.max_seq_length - self.specials

    def budget(self, length: int) -> int:
        return min(self.max_predictions, max(1, round(Fraction(self.masked_lm_prob) * (length + self.specials))))

    def start(self, epoch: int, domain: int) -> int:
        return draw(draw(mix(self.seed), epoch), domain)


class Chunk(NamedTuple):
    page: int
    offset: int
    length: int


class Example(NamedTuple):
    input_ids: list[int]
    token_type_ids: list[int]
    masked: list[tuple[int, int]]  # position in the example, original id
    label: int
    weight: int


class Reference:
    """The stream over `pages`; `batches(epoch)` yields each batch as a list of chunks."""

    def __init__(self, pages: list, rules: Rules):
        self.rules = rules
        self.ids = [[int(t) for ids, _, _ in page for t in ids] for page in pages]
        self.starts = [[bool(t) for _, starts, _ in page for t in starts] for page in pages]
        self.sentences = []  # by page: (first token, begins a document) of each sentence
        for page in pages:
            begins = [sum(len(s[0]) for s in page[:i]) for i in range(len(page))]
            self.sentences.append([(begin, i == 0 or page[i][2]) for i, begin in enumerate(begins)])

    def groups(self, epoch: int) -> list[list[int]]:
        order = list(range(len(self.ids)))
        start = self.rules.start(epoch, PAGES)
        for i in range(len(order) - 1, 0, -1):
            j = below(i + 1, draw(start, i), 64)
            order[i], order[j] = order[j], order[i]
        count = -(-len(order) // GROUP_PAGES)
        return [order[len(order) * g // count : len(order) * (g + 1) // count] for g in range(count)]

    def chunks(self, epoch: int, page: int) -> Iterator[Chunk]:
        rules = self.rules
        begins = [begin for begin, first in self.sentences[page] if first]
        ends = [*begins[1:], len(self.ids[page])]
        begin = 0
        for end in ends:
            is_short, length = halves(draw(rules.start(epoch, DOCUMENTS), page * 65536 + begin))
            target = rules.most
            if below(10**6, is_short) < Fraction(rules.short_seq_prob) * 10**6:
                target = 2 + below(rules.most - 1, length)
            while begin < end:
                size = min(target, end - begin)
                if size > 1:
                    yield Chunk(page, begin, size)
                begin += size

    def batches(self, epoch: int) -> Iterator[list[Chunk]]:
        for number, group in enumerate(self.groups(epoch)):
            chunks = [chunk for page in group for chunk in self.chunks(epoch, page)]
            start = draw(self.rules.start(epoch, SHUFFLE), number)
            for i in range(len(chunks) - 1, 0, -1):
                j = below(i + 1, draw(start, i), 64)
                chunks[i], chunks[j] = chunks[j], chunks[i]
            yield from self.pack(chunks)

    def pack(self, chunks: list[Chunk]) -> Iterator[list[Chunk]]:
        rules, head = self.rules, 0
        while head < len(chunks):
            tokens, slots, batch = rules.tokens_per_batch, rules.predictions_per_batch, []
            while head < len(chunks) and len(batch) < rules.max_sequences:
                pick = head
                in_order = not batch or tokens >= 2 * rules.max_seq_length
                if not in_order or rules.budget(chunks[head].length) > slots:
                    fitting = [
                        i
                        for i in range(head, min(head + WINDOW, len(chunks)))
                        if chunks[i].length + rules.specials <= tokens and rules.budget(chunks[i].length) <= slots
                    ]
                    if not fitting:
                        break
                    pick = max(fitting, key=lambda i: (chunks[i].length, -i))
                chunks[pick], chunks[head] = chunks[head], chunks[pick]
                batch.append(chunks[head])
                tokens -= chunks[head].length + rules.specials
                slots -= rules.budget(chunks[head].length)
                head += 1
            yield batch

    def builder(self, epoch: int, chunk: Chunk) -> ExampleBuilder:
        return ExampleBuilder(self, epoch, chunk)

    def tensors(self, epoch: int, batch: list[Chunk]) -> dict[str, list]:
        """The nine arrays of a batch as lists."""
        rules = self.rules
        out: dict[str, list] = {name: [] for name in ARRAYS}
        for chunk in batch:
            example = self.builder(epoch, chunk).build()
            base = len(out["input_ids"])
            out["cu_seqlens"].append(base)
            out["input_ids"] += example.input_ids
            out["token_type_ids"] += example.token_type_ids
            out["position_ids"] += range(len(example.input_ids))
            out["masked_lm_positions"] += [base + position for position, _ in example.masked]
            out["masked_lm_ids"] += [token for _, token in example.masked]
            out["masked_lm_weights"] += [1] * len(example.masked)
            out["sentence_order_labels"].append(example.label)
            out["sentence_order_weights"].append(example.weight)
        padding = range(len(out["input_ids"]), rules.tokens_per_batch, rules.max_seq_length)
        out["cu_seqlens"] += padding
        for name, value in out.items():
            size = {"cu": rules.sequence_slots + 1, "se": rules.max_sequences, "ma": rules.predictions_per_batch}
            fill = {"cu_seqlens": rules.tokens_per_batch, "input_ids": rules.pad_id}.get(name, 0)
            missing = size.get(name[:2], rules.tokens_per_batch) - len(value)
            assert missing >= (name == "cu_seqlens")
            value += [fill] * missing
        return out


class ExampleBuilder:
    def __init__(self, reference: Reference, epoch: int, chunk: Chunk):
        self.rules, self.length = reference.rules, chunk.length
        inside = slice(chunk.offset, chunk.offset + chunk.length)
        self.tokens = reference.ids[chunk.page][inside]
        self.word_starts = reference.starts[chunk.page][inside]
        begins = [begin - chunk.offset for begin, _ in reference.sentences[chunk.page]]
        self.sentence_starts = [begin for begin in begins if 0 < begin < chunk.length]
        self.stream = draw(reference.rules.start(epoch, EXAMPLES), chunk.page * 65536 + chunk.offset)
        self.drawn: list[int] = []  # n of each span as drawn
        self.accepted: list[int] = []  # n of each span as placed, limited by the budget but not by the edges
        self.split()

    def split(self) -> None:
        self.half, self.swapped, self.ordered = self.length, False, self.rules.sentence_order
        if not self.rules.sentence_order:
            return
        choice, coin = halves(draw(self.stream, 0))
        self.swapped = coin >> 31 == 1
        words = [i for i in range(1, self.length) if self.word_starts[i]]
        places = self.sentence_starts or words or range(1, self.length)
        self.half = places[below(len(places), choice)]
        if self.tokens[: self.half] == self.tokens[self.half :]:
            self.ordered = self.length > 2
            later = [i for i in words if i > self.half] or [self.half + 1]
            self.half = later[0] if self.length > 2 else self.half

    @cached_property
    def units(self) -> list[range]:
        begins = [i for i in range(self.length) if self.word_starts[i] or i in (0, self.half)]
        return [range(a, b) for a, b in zip(begins, [*begins[1:], self.length], strict=True)]

    def masks(self) -> set[int]:
        """The masked positions of the chunk."""
        rules, units = self.rules, self.units
        masked: set[int] = set()
        count = len(units)
        first_part = sum(unit.start < self.half for unit in units)
        parts = 2 if rules.sentence_order else 1
        weights = [lcm(*range(1, 11)) // n for n in range(1, rules.max_ngram + 1)]
        left, index = rules.budget(self.length), 0

        def next_value() -> tuple[int, int]:
            nonlocal index
            index += 1
            return halves(draw(self.stream, index))

        def maskable(some: list[range]) -> set[int]:
            tokens = {t for unit in some for t in unit if self.tokens[t] not in rules.unmaskable}
            fits = 0 < len(tokens) <= left and not any(t in masked for unit in some for t in unit)
            return tokens if fits else set()

        while left > 0:
            choice, place = next_value()
            choice = below(sum(weights), choice)
            self.drawn.append(1 + sum(choice >= sum(weights[: i + 1]) for i in range(rules.max_ngram - 1)))
            n = min(self.drawn[-1], left)
            tries, taken = 0, set()
            while n > 0:
                first = below(count + parts * (n - 1), place)
                if first < first_part + n - 1:
                    begin, low, high = first - (n - 1), 0, first_part
                else:
                    begin, low, high = first - 2 * (n - 1), first_part, count
                taken = maskable(units[max(begin, low) : min(begin + n, high)])
                if taken:
                    break
                tries += 1
                n -= tries % TRIES == 0
                place = next_value()[1]
            if taken:
                self.accepted.append(n)
            else:
                choice = next_value()[0]
                candidates = [unit for unit in units if maskable([unit])]
                if not candidates:
                    break
                taken = maskable([candidates[below(len(candidates), choice)]])
                self.accepted.append(1)
            masked |= taken
            left -= len(taken)
        return masked

    def build(self) -> Example:
        rules = self.rules
        first, second = range(self.half), range(self.half, self.length)
        segments = [second, first] if self.swapped else [first, second]
        if not rules.sentence_order:
            segments = [first]
        masked = self.masks()
        ids, types, predictions = [rules.cls_id], [0], []
        for number, segment in enumerate(segments):
            for token in segment:
                position, shown = len(ids), self.tokens[token]
                if token in masked:
                    predictions.append((position, shown))
                    kind, which = halves(draw(self.stream, 2**32 + position))
                    tenth = below(10, kind)
                    random = rules.ordinary[below(len(rules.ordinary), which)]
                    shown = rules.mask_id if tenth < 8 else shown if tenth == 8 else random
                ids.append(shown)
                types.append(number)
            ids.append(rules.sep_id)
            types.append(number)
        return Example(ids, types, predictions, int(self.swapped), int(self.ordered))


def rules_of(loader: PretrainingLoader, vocab_size: int, unused=(), **settings) -> Rules:
    return Rules(
        tokens_per_batch=loader.tokens_per_batch,
        max_seq_length=loader.max_seq_length,
        max_sequences=loader.max_sequences,
        sequence_slots=loader.sequence_slots,
        predictions_per_batch=loader.predictions_per_batch,
        cls_id=CLS,
        sep_id=SEP,
        mask_id=MASK,
        pad_id=PAD,
        unmaskable=frozenset((CLS, SEP, MASK, PAD, UNK)),
        ordinary=[i for i in range(NUM_NOT_ORDINARY, vocab_size) if i not in unused],
        **settings,
    )
