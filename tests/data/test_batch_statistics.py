"""What a correct stream of batches shows over an epoch of a million tokens, every one with an id of its own.

Bounds without a number are 4 standard errors.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from support.loader_reference import Reference, rules_of
from support.shard_writer import CLS, MASK, NUM_NOT_ORDINARY, SEP, Document, pages_of, write_shard

from albert_fast.data.batches import PretrainingLoader

NUM_TOKENS = 1_000_000
VOCAB = NUM_NOT_ORDINARY + NUM_TOKENS
PAGE_TOKENS = 8192  # fewer than 256 pages: one group


@dataclass
class Corpus:
    path: object
    documents: list[Document]
    document_of: np.ndarray  # by token, counted from 0; id = token + NUM_NOT_ORDINARY
    word_of: np.ndarray
    page_of: np.ndarray
    num_pages: int


def make_corpus(path, seed: int, word_start_prob: float, sentences: tuple[int, int]) -> Corpus:
    random = np.random.default_rng(seed)
    documents: list[Document] = []
    document_of, starts_all, token = [], [], 0
    while token < NUM_TOKENS:
        lengths = random.integers(3, 60, random.integers(*sentences))
        lengths = lengths[np.cumsum(lengths) <= NUM_TOKENS - token]
        if len(lengths) == 0:
            lengths = np.array([NUM_TOKENS - token])
        ids, starts = [], []
        for length in lengths:
            ids.append(np.arange(token, token + length) + NUM_NOT_ORDINARY)
            starts.append(random.random(length) < word_start_prob)
            starts[-1][0] = True
            token += int(length)
            document_of += [len(documents)] * int(length)
        starts_all += starts
        documents.append(Document(ids, starts))
    write_shard(path, documents, VOCAB, PAGE_TOKENS)
    pages = pages_of(documents, PAGE_TOKENS)
    page_sizes = [sum(len(s[0]) for s in page) for page in pages]
    word_of = np.cumsum(np.concatenate(starts_all))
    page_of = np.repeat(np.arange(len(pages)), page_sizes)
    return Corpus(path, documents, np.array(document_of), word_of, page_of, len(pages))


@dataclass
class Epoch:
    """Arrays over an epoch's examples: bounds in the concatenated tokens, and what was masked."""

    corpus: Corpus
    max_seq_length: int
    original: np.ndarray  # ids, masks undone
    shown: np.ndarray
    masked: np.ndarray  # bool
    begin: np.ndarray
    end: np.ndarray
    middle: np.ndarray  # of the first [SEP]
    label: np.ndarray
    batch: np.ndarray  # of each example
    statistics: dict
    loader: PretrainingLoader


def read_epoch(corpus: Corpus, max_seq_length: int, tokens_per_batch: int = 16_384) -> Epoch:
    settings = {"tokens_per_batch": tokens_per_batch, "max_seq_length": max_seq_length, "seed": 11}
    parts: dict[str, list] = {name: [] for name in ("original", "shown", "masked", "begin", "end", "label", "batch")}
    total = 0
    with PretrainingLoader([corpus.path], **settings) as loader:
        for batch in loader:
            if batch.epoch > 0:
                break
            statistics = loader.statistics()
            used = batch.num_predictions
            assert (batch.masked_lm_weights == (np.arange(loader.predictions_per_batch) < used)).all()
            assert (batch.sentence_order_weights == (np.arange(loader.max_sequences) < batch.num_sequences)).all()
            original, masked = batch.input_ids.copy(), np.zeros(tokens_per_batch, bool)
            original[batch.masked_lm_positions[:used]] = batch.masked_lm_ids[:used]
            masked[batch.masked_lm_positions[:used]] = True
            assert masked.sum() == used, "a position was given twice"
            bounds = batch.cu_seqlens[: batch.num_sequences + 1].astype(np.int64)
            parts["original"].append(original[: batch.num_tokens])
            parts["shown"].append(batch.input_ids[: batch.num_tokens].copy())
            parts["masked"].append(masked[: batch.num_tokens])
            parts["begin"].append(bounds[:-1] + total)
            parts["end"].append(bounds[1:] + total)
            parts["label"].append(batch.sentence_order_labels[: batch.num_sequences].copy())
            parts["batch"].append(np.full(batch.num_sequences, batch.index))
            total += batch.num_tokens
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    separators = np.flatnonzero(arrays["original"] == SEP)
    assert len(separators) == 2 * len(arrays["begin"])
    middle = separators[::2]
    return Epoch(corpus, max_seq_length, **arrays, middle=middle, statistics=statistics, loader=loader)


@pytest.fixture(scope="module", params=["characters", "words"])
def corpus(request, tmp_path_factory) -> Corpus:
    probability = 1.0 if request.param == "characters" else 0.75
    return make_corpus(tmp_path_factory.mktemp(request.param) / "a.bin", 1, probability, (1, 40))


@pytest.fixture(scope="module", params=[128, 512], ids=["S128", "S512"])
def epoch(request, corpus) -> Epoch:
    return read_epoch(corpus, request.param)


def assert_rate(hits: int, trials: int, rate: float) -> None:
    error = (rate * (1 - rate) / trials) ** 0.5
    assert abs(hits / trials - rate) < 4 * error, f"{hits} of {trials} is {hits / trials:.4f}, not {rate}"


def test_every_token_is_used_exactly_once(epoch):
    text = epoch.original[epoch.original >= NUM_NOT_ORDINARY] - NUM_NOT_ORDINARY
    uses = np.bincount(text, minlength=NUM_TOKENS)
    assert uses.max() == 1
    unused = np.flatnonzero(uses == 0)
    last_of_document = np.diff(epoch.corpus.document_of, append=-1) != 0
    assert last_of_document[unused].all(), "only one-token tails of documents may be dropped"
    assert len(unused) < 0.01 * NUM_TOKENS


def test_pairs_lie_in_one_document_and_the_label_tells_their_order(epoch):
    a = epoch.original[epoch.begin + 1], epoch.original[epoch.middle - 1]
    b = epoch.original[epoch.middle + 1], epoch.original[epoch.end - 2]
    first, second = np.where(epoch.label, b, a), np.where(epoch.label, a, b)
    np.testing.assert_array_equal(first[1] + 1, second[0], err_msg="the parts do not meet")
    documents = epoch.corpus.document_of[np.stack([first[0], second[1]]) - NUM_NOT_ORDINARY]
    np.testing.assert_array_equal(documents[0], documents[1])
    # Inside the parts, ids go up one by one: the text of one document, in order.
    steps = np.diff(epoch.original)
    inside = (epoch.original[:-1] >= NUM_NOT_ORDINARY) & (epoch.original[1:] >= NUM_NOT_ORDINARY)
    assert (steps[inside] == 1).all()
    assert (epoch.original[epoch.begin] == CLS).all()
    assert (epoch.original[epoch.end - 1] == SEP).all()
    assert_rate(int(epoch.label.sum()), len(epoch.label), 0.5)


def test_budget_is_kept_and_used(epoch):
    lengths = epoch.end - epoch.begin
    budgets = np.array([max(1, round(Fraction(15, 100) * int(n))) for n in lengths])
    counts = np.add.reduceat(epoch.masked.astype(np.int64), epoch.begin)
    assert (counts <= budgets).all()
    assert counts.sum() >= 0.985 * budgets.sum()


def test_masks_cover_whole_words_and_no_specials(epoch):
    assert (epoch.original[epoch.masked] >= NUM_NOT_ORDINARY).all()
    word = np.full(len(epoch.original), -1)
    text = epoch.original >= NUM_NOT_ORDINARY
    word[text] = epoch.corpus.word_of[epoch.original[text] - NUM_NOT_ORDINARY]
    same_word = text[:-1] & (word[:-1] == word[1:])
    np.testing.assert_array_equal(epoch.masked[:-1][same_word], epoch.masked[1:][same_word])


def test_replacement_shares(epoch):
    shown, original = epoch.shown[epoch.masked], epoch.original[epoch.masked]
    assert_rate(int((shown == MASK).sum()), len(shown), 0.8)
    assert_rate(int((shown == original).sum()), len(shown), 0.1)
    random = shown[(shown != MASK) & (shown != original)]
    assert (random >= NUM_NOT_ORDINARY).all()
    mean = (VOCAB + NUM_NOT_ORDINARY) / 2
    assert abs(random.mean() - mean) < 4 * NUM_TOKENS / (12 * len(random)) ** 0.5
    np.testing.assert_array_equal(epoch.shown[~epoch.masked], epoch.original[~epoch.masked])


def test_mask_rate_is_even_over_positions_and_edges(epoch):
    full = (epoch.end - epoch.begin) == epoch.max_seq_length
    assert full.sum() > 500
    rows = epoch.begin[full][:, None] + np.arange(epoch.max_seq_length)
    text = epoch.original[rows] >= NUM_NOT_ORDINARY
    budget = round(Fraction(15, 100) * epoch.max_seq_length)
    fair = budget / (epoch.max_seq_length - 3)
    parts = np.array_split(np.arange(1, epoch.max_seq_length - 1), 8)
    edges = {
        "first of A": epoch.begin[full] + 1,
        "last of A": epoch.middle[full] - 1,
        "first of B": epoch.middle[full] + 1,
        "last of B": epoch.end[full] - 2,
    }
    rates = {f"part {i}": (epoch.masked[rows[:, p]].sum(), text[:, p].sum()) for i, p in enumerate(parts)}
    rates |= {name: (epoch.masked[at].sum(), len(at)) for name, at in edges.items()}
    for name, (hits, trials) in rates.items():
        # Masks of one span are not independent: three tokens a span widen the error by up to sqrt(3).
        error = 4 * (3 * fair * (1 - fair) / trials) ** 0.5
        assert abs(hits / trials - fair) < max(0.015, error), f"{name}: {hits / trials:.4f}, not {fair:.4f}"


def test_pages_mix_as_chance(epoch):
    page = epoch.corpus.page_of[epoch.original[epoch.begin + 1] - NUM_NOT_ORDINARY]
    pairs = same = expected = 0.0
    share = np.bincount(page) / len(page)
    for number in range(epoch.batch.max() + 1):
        counts = np.bincount(page[epoch.batch == number])
        n = counts.sum()
        pairs += n * (n - 1) / 2
        same += (counts * (counts - 1) / 2).sum()
    expected = float((share**2).sum()) * pairs
    assert abs(same - expected) < 4 * expected**0.5 + 0.02 * expected


def test_order_is_a_shuffle_not_a_sort(epoch):
    lengths = (epoch.end - epoch.begin).astype(float)
    order = np.arange(len(lengths))
    assert abs(np.corrcoef(order, lengths)[0, 1]) < 0.1
    token = epoch.original[epoch.begin + 1].astype(float)
    assert abs(np.corrcoef(order, token)[0, 1]) < 4 / len(order) ** 0.5
    halves = np.array_split(lengths, 2)
    assert abs(halves[0].mean() / halves[1].mean() - 1) < 0.05


def test_packing_leaves_little_unused(epoch):
    statistics, batches = epoch.statistics, epoch.statistics["batches"]
    assert statistics["closed_by"]["sequences"] == 0
    assert statistics["closed_by"]["end_of_group"] == 1
    last = 16_384 - (epoch.end - epoch.begin)[epoch.batch == batches - 1].sum()
    assert statistics["unused_tokens"] - last < 0.004 * statistics["tokens"]
    assert statistics["unused_predictions"] < 0.03 * statistics["predictions"] + epoch.loader.predictions_per_batch


@pytest.mark.parametrize(("max_seq_length", "tolerance"), [(128, 0.06), (512, 0.03)])
def test_span_lengths(corpus, max_seq_length, tolerance):
    """Of the plain reference, which the loader equals number for number."""
    pages = pages_of(corpus.documents, PAGE_TOKENS)
    with PretrainingLoader([corpus.path], tokens_per_batch=16_384, max_seq_length=max_seq_length, seed=11) as loader:
        rules = rules_of(loader, 1000, seed=11)
    reference = Reference(pages[:40], rules)
    drawn: list[int] = []
    accepted: list[int] = []
    for page in range(40):
        for chunk in reference.chunks(0, page):
            builder = reference.builder(0, chunk)
            builder.masks()
            drawn += builder.drawn
            accepted += builder.accepted
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    for n, share in ((1, 6 / 11), (2, 3 / 11), (3, 2 / 11)):
        assert abs(shares[n] - share) < 4 * (share * (1 - share) / len(drawn)) ** 0.5
    assert abs(np.mean(np.array(accepted) == 1) - 6 / 11) < tolerance
