"""What word counts alone reach, of words and of characters."""

from dataclasses import replace

import pytest

from albert_fast.downstream.baseline import word_count_accuracy
from albert_fast.downstream.examples import Example


@pytest.mark.parametrize("words", [("good", "bad", "film"), ("好看", "难看", "电影")], ids=["words", "characters"])
def test_word_counts_learn_what_words_say(words):
    good, bad, film = words
    rows = [(f"{film} {good}", "1"), (f"{film} {bad}", "0")] * 10
    examples = [Example(text, None, label, "") for text, label in rows]
    assert word_count_accuracy(examples, examples) == 1.0
    pairs = [replace(example, text_b=example.text_a, text_a=film) for example in examples]
    assert word_count_accuracy(pairs, pairs) == 1.0
