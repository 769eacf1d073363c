"""bench.bench_prepare: its Python tokenizer agrees with ours, and every row is measured."""

import random

import pytest

from albert_fast.data.load_tokenizer import load_tokenizer
from bench.bench_prepare import basic_tokens, chunks, mask, measure, sample_text, wordpieces


@pytest.fixture(scope="module", params=["english", "chinese"])
def sample(request, tmp_path_factory):
    return request.param, *sample_text(tmp_path_factory.mktemp("bench"), request.param, 0.1)


def test_python_tokenizer_agrees_with_ours(sample):
    _, file, vocab = sample
    tokenizer = load_tokenizer(vocab)
    vocabulary = {token: index for index, token in enumerate(tokenizer.tokens)}
    for line in [
        *file.read_text(encoding="utf-8").split("\n")[:300],
        "Été\u00a0NAÏVE don't [MASK] 中国x\x00y \u200b",
        "a" * 101,
    ]:
        pieces = [vocabulary[piece] for word in basic_tokens(line) for piece in wordpieces(word, vocabulary)]
        assert pieces == tokenizer.encode(line)


def test_rules_exceed_the_budget_and_pair_a_single_sentence_with_itself():
    """Two known faults of albert_pytorch, which a faithful baseline must have."""
    rng = random.Random(0)
    single = [chunk for _ in range(50) for chunk in chunks([["a", "b", "c"]], rng)]
    assert all(a == b for a, b, _ in single)
    counts = [len(mask(["[CLS]", *"abcdefghijklmnopqrst", "[SEP]"], ["x"], rng)[0]) for _ in range(200)]
    assert max(counts) > round(22 * 0.15)


def test_every_method_is_measured_on_the_same_tokens(sample):
    name, file, vocab = sample
    rows = measure(file, vocab, name)
    assert len(rows) == (5 if name == "chinese" else 4)
    assert len({row["tokens"] for row in rows}) == 1
    assert all(row["tokens_per_cpu_second"] > 0 for row in rows)
