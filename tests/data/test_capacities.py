"""The settings of a stream: checked, and with capacities that let tokens close the batches."""

from __future__ import annotations

import pytest
from support.shard_writer import random_documents, write_shard

from albert_fast._loader import Corpus
from albert_fast.data.batches import PretrainingLoader
from albert_fast.data.capacities import earlier_max_sequences, loader_config, stream_fingerprint
from albert_fast.options import UserError


def test_short_documents_fill_their_batches(tmp_path):
    """The default of max_sequences follows the corpus; one that is too small is reported, with the remedy."""
    write_shard(tmp_path / "a.bin", random_documents(1, 20_000, sentences=(1, 1), tokens=(5, 20)), 500)
    options = {"tokens_per_batch": 2048, "max_seq_length": 128, "seed": 1}
    with PretrainingLoader([tmp_path / "a.bin"], **options) as loader:
        for _ in range(150):
            next(loader)
        counts = loader.statistics()
        assert counts["closed_by"]["sequences"] == 0
        assert counts["unused_tokens"] < 0.01 * counts["tokens"]
    with PretrainingLoader([tmp_path / "a.bin"], **options, max_sequences=64) as loader:
        with pytest.warns(UserWarning, match="raise max_sequences"):
            batches = [next(loader) for _ in range(150)]
        assert all(batch.num_sequences == 64 for batch in batches)
        assert loader.statistics()["closed_by"]["sequences"] == 150


def test_lengths_that_vary_as_much_as_they_can_fill_their_batches(tmp_path):
    """Half of the documents longer than S, half of a few tokens: the number of examples in a batch varies the most."""
    write_shard(
        tmp_path / "a.bin",
        random_documents(1, 2000, sentences=(1, 1), tokens=(5, 6)) + random_documents(2, 2000, (20, 20), (24, 26)),
        500,
    )
    with PretrainingLoader([tmp_path / "a.bin"], tokens_per_batch=16384, max_seq_length=512, seed=1) as loader:
        sizes = [next(loader).num_sequences for _ in range(60)]
        assert loader.statistics()["closed_by"]["sequences"] == 0
    assert max(sizes) > 0.5 * loader.max_sequences


@pytest.mark.parametrize(
    ("tokens", "length", "expected"),
    [
        # Chunks of 125 and, one in ten, of 2 to 125: 1 / mean(1 / n) = 93.0, an example 96.0, n = 21.3 examples;
        # n (1 + 2 sqrt(32 / T)) = 26.7. ceil(.15 T) + ceil(sqrt(T / S)) = 308 + 4 predictions, in sixteens.
        (2048, 128, (27, 320)),
        # 343.4 and 3 special tokens, n = 189.2; n (1 + 2 sqrt(165.6 / T)) = 208.2. 77 of 512 are masked: 9856 + 12.
        (65536, 512, (209, 9872)),
    ],
)
def test_capacities_are_those_of_the_formulas(tokens, length, expected):
    """For documents without end."""
    config = loader_config(tokens_per_batch=tokens, max_seq_length=length)
    assert (config.max_sequences, config.predictions_per_batch) == expected
    given = loader_config(tokens_per_batch=2048, max_seq_length=128, max_sequences=9, predictions_per_batch=1024)
    assert (given.max_sequences, given.predictions_per_batch) == (9, 1024)


@pytest.mark.parametrize(("tokens_of_each", "expected"), [(20, 132), (20_000, 64)])
def test_the_rule_of_earlier_streams(tmp_path, tokens_of_each, expected):
    """T / 32 = 64, or 5 / 4 T / m: documents of 20 tokens make an example of 1 / (1 / 20 + 1 / 93.0) + 3 = 19.5."""
    documents = random_documents(1, 50, sentences=(1, 1), tokens=(tokens_of_each, tokens_of_each))
    write_shard(tmp_path / "a.bin", documents, 500)
    corpus = Corpus([str(tmp_path / "a.bin")])
    assert earlier_max_sequences(loader_config(corpus, tokens_per_batch=2048, max_seq_length=128), corpus) == expected


def test_a_cursor_keeps_the_capacity_of_its_stream(tmp_path):
    """Whatever the default is when the run goes on; cursors that do not name it are of the rule before."""
    write_shard(tmp_path / "a.bin", random_documents(1, 200), 500)
    options = {"tokens_per_batch": 2048, "max_seq_length": 64, "seed": 1}
    for given in (40, 64):
        with PretrainingLoader([tmp_path / "a.bin"], **options, max_sequences=given) as loader:
            next(loader)
            cursor, expected = loader.cursor(), next(loader)
        assert cursor["max_sequences"] == given != loader_config(loader.corpus, **options).max_sequences
        if given == 2048 // 32:
            del cursor["max_sequences"]
        with PretrainingLoader([tmp_path / "a.bin"], **options, cursor=cursor) as again:
            assert again.max_sequences == given
            assert next(again).input_ids.tolist() == expected.input_ids.tolist()


def test_every_setting_that_decides_a_byte_is_in_the_fingerprint(tmp_path):
    write_shard(tmp_path / "a.bin", random_documents(1, 5), 500)
    corpus = Corpus([str(tmp_path / "a.bin")])
    given = {"tokens_per_batch": 1024, "max_seq_length": 64}
    changes = [{}, {"seed": 1}, {"max_ngram": 2}, {"masked_lm_prob": 0.2}, {"sentence_order": False},
               {"max_predictions": 5}, {"short_seq_prob": 0.3}, {"max_sequences": 7}]  # fmt: skip
    fingerprints = [stream_fingerprint(loader_config(corpus, **given, **change), corpus) for change in changes]
    assert len(set(fingerprints)) == len(changes)
    assert stream_fingerprint(loader_config(corpus, **given), corpus) == fingerprints[0]
    assert all(len(fingerprint) == 16 for fingerprint in fingerprints)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"seed": True}, "seed=True is not a whole number"), ({"seed": 2**64}, f"must be from 0 to {2**64 - 1}"),
     ({"masked_lm_prob": "much"}, "masked_lm_prob='much' must be a number"),
     ({"sentence_order": "no"}, "sentence_order='no' must be True or False")],
    ids=["bool", "large", "text", "no bool"],
)  # fmt: skip
def test_settings_that_the_core_cannot_hold_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        loader_config(tokens_per_batch=1024, max_seq_length=64, **setting)
