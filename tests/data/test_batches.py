"""The loader: equal to the plain reference, to itself at any thread count and world size, and exact about an epoch."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loader_reference import ARRAYS, GROUP_PAGES, Reference, rules_of
from support.shard_writer import PAD, pages_of, random_documents, write_shard

from albert_fast.data.batches import Batch, PretrainingLoader
from albert_fast.options import UserError

# Odd sizes on small corpora waste tokens on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:max_seq_length:UserWarning", "ignore:tokens_per_batch:UserWarning")


CASES = {
    "usual": {},
    "long": {"max_seq_length": 512, "tokens_per_batch": 2048},
    "shortest": {"max_seq_length": 5, "tokens_per_batch": 64},
    "one-sequence": {"max_seq_length": 40, "tokens_per_batch": 40},
    "few-sequences": {"max_sequences": 5},
    "few-predictions": {"predictions_per_batch": 64},
    "one-segment": {"sentence_order": False},
    "capped": {"max_predictions": 3},
    "unigrams": {"max_ngram": 1},
    "long-spans": {"max_ngram": 10, "masked_lm_prob": 0.4, "max_seq_length": 30},
    "short-often": {"short_seq_prob": 1.0},
    "short-never": {"short_seq_prob": 0.0},
}
CORPORA = {
    "plain": {},
    "all-one-word": {"word_start_prob": 0.0},
    "characters": {"word_start_prob": 1.0, "unk_prob": 0.0},
    "mostly-unknown": {"unk_prob": 0.9},
    "only-unknown": {"unk_prob": 1.0},
    "two-tokens": {"sentences": (1, 2), "tokens": (1, 2), "vocab_size": 9},
    "wide": {"vocab_size": 70_000},
    "long-sentences": {"sentences": (1, 2), "tokens": (300, 900)},
}


def check_against_reference(tmp_path, documents, vocab_size, page_tokens, epochs, options, unused=()):
    options = {"tokens_per_batch": 512, "max_seq_length": 64, "seed": 7, **options}
    write_shard(tmp_path / "a.bin", documents[::2], vocab_size, page_tokens, unused=unused)
    write_shard(tmp_path / "b.bin", documents[1::2], vocab_size, page_tokens, unused=unused)
    pages = pages_of(documents[::2], page_tokens) + pages_of(documents[1::2], page_tokens)
    rest = {k: v for k, v in options.items() if k in ("seed", "max_ngram", "sentence_order", "max_predictions")}
    rest |= {k: str(v) for k, v in options.items() if k in ("masked_lm_prob", "short_seq_prob")}
    with PretrainingLoader([tmp_path / "a.bin", tmp_path / "b.bin"], **options) as loader:
        reference = Reference(pages, rules_of(loader, vocab_size, unused, **rest))
        index = 0
        for epoch in range(epochs):
            for expected in reference.batches(epoch):
                batch = next(loader)
                assert (batch.index, batch.epoch, batch.num_sequences) == (index, epoch, len(expected))
                for name, values in reference.tensors(epoch, expected).items():
                    np.testing.assert_array_equal(getattr(batch, name), values, err_msg=f"{name} of batch {index}")
                index += 1
        assert next(loader).epoch == epochs


@pytest.mark.parametrize("case", CASES)
def test_equals_plain_reference(tmp_path, case):
    documents = random_documents(3, 20 if case == "shortest" else 120)
    check_against_reference(tmp_path, documents, 500, 2048, 2, CASES[case])


@pytest.mark.parametrize("corpus", CORPORA)
def test_equals_plain_reference_on_odd_corpora(tmp_path, corpus):
    made = CORPORA[corpus]
    documents = random_documents(5, 60, **made)
    check_against_reference(tmp_path, documents, made.get("vocab_size", 500), 1024, 2, {"max_seq_length": 48})


def test_gaps_among_ordinary_ids_equal_plain_reference(tmp_path):
    check_against_reference(tmp_path, random_documents(4, 60), 500, 2048, 1, {}, unused=range(100, 300))


def test_many_groups_equal_plain_reference(tmp_path):
    """More than 256 pages, so that an epoch has several groups, of equal size."""
    check_against_reference(tmp_path, random_documents(9, 600, tokens=(1, 8)), 500, 40, 2, {})


def arrays(batch: Batch) -> bytes:
    return b"".join(getattr(batch, name).tobytes() for name in ARRAYS)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "a.bin"
    write_shard(path, random_documents(1, 900), 500, page_tokens=512)
    return path


def stream(shard, count, **options):
    with PretrainingLoader([shard], **{"tokens_per_batch": 1024, "max_seq_length": 64, "seed": 3} | options) as loader:
        return [arrays(next(loader)) for _ in range(count)], loader.cursor()


def test_threads_change_no_byte(shard):
    one, _ = stream(shard, 500, threads=1)
    assert one == stream(shard, 500, threads=2)[0] == stream(shard, 500, threads=8)[0]
    assert len(set(one)) == 500


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_one_stream(shard, world_size):
    one, _ = stream(shard, 400)
    for rank in range(world_size):
        own, cursor = stream(shard, 400 // world_size, rank=rank, world_size=world_size)
        assert own == one[rank::world_size]
        assert cursor["index"] == 400


def test_start_batch_and_cursor_equal_skipping(shard):
    one, _ = stream(shard, 420)
    for start in (0, 1, 37, 150, 400):
        assert stream(shard, 20, start_batch=start)[0] == one[start : start + 20]
        _, cursor = stream(shard, start, threads=1)
        assert stream(shard, 20, cursor=cursor)[0] == one[start : start + 20]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_stream_is_a_function_of_the_index(shard, data):
    """Any way of entering it, any number of ranks and threads: micro-batch k is micro-batch k."""
    own = {
        "max_seq_length": data.draw(st.integers(5, 90)),
        "sentence_order": data.draw(st.booleans()),
        "seed": data.draw(st.integers(0, 2**64 - 1)),
    }
    one, _ = stream(shard, 60, **own, threads=1)
    world_size = data.draw(st.integers(1, 5))
    rank = data.draw(st.integers(0, world_size - 1))
    start = data.draw(st.integers(0, 40))
    count = (60 - start - rank + world_size - 1) // world_size
    taken = data.draw(st.integers(0, count))
    ways = {"rank": rank, "world_size": world_size}
    first, cursor = stream(shard, taken, **own, **ways, start_batch=start, threads=data.draw(st.integers(1, 4)))
    assert json.loads(json.dumps(cursor)) == cursor
    assert cursor["index"] == start + taken * world_size
    rest, _ = stream(shard, count - taken, **own, **ways, cursor=cursor, threads=data.draw(st.integers(1, 4)))
    assert first + rest == one[start + rank :: world_size]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"threads": 0}, "threads=0"),
        ({"threads": 10**9}, "threads=1000000000 must be from 1 to 256"),
        ({"tokens_per_batch": 0}, "tokens_per_batch=0"),
        ({"tokens_per_batch": 63}, "tokens_per_batch=63"),
        ({"seed": -1}, "seed=-1"),
        ({"max_seq_length": 4}, "max_seq_length=4"),
        ({"start_batch": 2**63 - 2}, "start_batch"),
        ({"masked_lm_prob": 0.9}, "masked_lm_prob=0.9"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"max_predictions": 0}, "max_predictions=0"),
        ({"predictions_per_batch": 1}, "predictions_per_batch=1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_settings_are_refused(shard, bad, message):
    with pytest.raises(UserError, match=message):
        stream(shard, 1, **bad)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_only_the_last_batch_of_an_epoch_is_not_full(tmp_path, data):
    """Of a small corpus whose documents differ in length, where T is a multiple of S and at least 32 of it and tokens
    alone close batches: nothing is unused but the remainder, 0.2% and, of a very small one, a sequence."""
    fewest, spread = data.draw(st.integers(1, 20)), data.draw(st.integers(4, 60))
    shape = {"sentences": (1, data.draw(st.integers(1, 40))), "tokens": (fewest, fewest + spread)}
    length = data.draw(st.sampled_from([32, 48, 64, 128]))
    tokens = length * data.draw(st.integers(32, 64))
    per_document = (1 + shape["sentences"][1]) * (2 * fewest + spread) / 4
    count = math.ceil(data.draw(st.floats(1, 60)) * tokens / per_document)
    seed = data.draw(st.integers(0, 2**32))
    write_shard(tmp_path / "a.bin", random_documents(seed, count, **shape), 500)
    options = {"tokens_per_batch": tokens, "max_seq_length": length, "max_sequences": tokens, "seed": seed}
    with PretrainingLoader([tmp_path / "a.bin"], **options, predictions_per_batch=tokens // 2) as loader:
        assert loader.corpus.num_pages <= GROUP_PAGES
        epoch = list(itertools.takewhile(lambda batch: batch.epoch == 0, loader))
        counts = loader.statistics()["closed_by"]
    assert counts["sequences"] == counts["predictions"] == 0
    used = sum(batch.num_tokens for batch in epoch)
    assert len(epoch) <= math.ceil(1.002 * used / tokens), (len(epoch), used / tokens)
    assert sum(tokens - batch.num_tokens for batch in epoch[:-1]) <= 0.002 * used + length


def test_no_capacity_is_exceeded_and_the_counts_add_up(shard):
    options = {"tokens_per_batch": 1024, "max_seq_length": 64, "seed": 3}
    with PretrainingLoader([shard], **options, max_sequences=30, predictions_per_batch=160) as loader:
        unused_tokens = unused_predictions = sequences = 0
        for count in range(1, 301):
            batch = next(loader)
            lengths = np.diff(batch.cu_seqlens)
            assert batch.cu_seqlens[batch.num_sequences] == batch.num_tokens
            assert batch.cu_seqlens[-1] == 1024
            assert lengths.max() <= 64
            padding = lengths[batch.num_sequences :]
            assert np.count_nonzero(padding) == -(-(1024 - batch.num_tokens) // 64)
            assert not batch.sentence_order_weights[batch.num_sequences :].any()
            assert (batch.input_ids[batch.num_tokens :] == PAD).all()
            unused_tokens += 1024 - batch.num_tokens
            unused_predictions += 160 - int(batch.masked_lm_weights.sum())
            sequences += batch.num_sequences
            counts = loader.statistics()
            assert counts["batches"] == sum(counts["closed_by"].values()) == count
        assert counts["unused_tokens"] == unused_tokens
        assert counts["unused_predictions"] == unused_predictions
        assert counts["sequences"] == sequences
        assert min(counts["closed_by"][name] for name in ("tokens", "sequences", "end_of_group")) > 0
