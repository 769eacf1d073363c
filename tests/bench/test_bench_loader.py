"""bench.bench_loader: its corpora are valid shards with the stated lengths, and every row is measured."""

import numpy as np
import pytest

from albert_fast import _loader
from albert_fast.data.shards import read_sentences
from bench.bench_loader import CORPORA, seek, speed_row, write_corpus


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_have_the_stated_lengths(tmp_path, name):
    shape, path = CORPORA[name], tmp_path / "a.bin"
    write_corpus(path, shape, 100_000)
    _loader.check_shard(str(path))
    sentences = list(read_sentences(path))
    lengths = np.array([len(sentence.ids) for sentence in sentences])
    assert (lengths.min(), lengths.max()) == shape.tokens
    assert lengths.sum() >= 100_000
    first = sum(sentence.first_of_document for sentence in sentences)
    assert (first == len(sentences)) == (shape.sentences == (1, 1))
    starts = np.concatenate([sentence.word_starts[1:] for sentence in sentences])
    assert abs(starts.mean() - shape.word_start_prob) < 0.01


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rows_are_measured(tmp_path):
    # Two epochs must take much longer than the lag of the CPU clock of a process with running threads.
    write_corpus(tmp_path / "a.bin", CORPORA["words"], 4_000_000)
    row = speed_row(tmp_path / "a.bin", "words", 128, 1, 20_000)
    rates = [row[name] for name in ("copy", "tokens_per_cpu_second", "huggingface", "albert_pytorch")]
    assert rates == sorted(rates, reverse=True)
    assert row["huggingface_whole_word"] < row["tokens_per_cpu_second"]
    assert sum(row["closed_by"].values()) > 0
    assert seek(tmp_path / "a.bin")["cursor_milliseconds"] > 0
