"""Texts are encoded, truncated and packed without padding; means cover each text's own tokens."""

import numpy as np
import pytest
import torch

from albert_fast.config import AlbertConfig
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.downstream.texts import encode_texts, mean_vectors
from albert_fast.options import UserError

TOKENIZER = wordpiece_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
CONFIG = AlbertConfig(**SIZES, vocab_size=8, max_position_embeddings=8)


def test_rows_are_packed_in_the_order_asked_for() -> None:
    texts = encode_texts(TOKENIZER, [("a b", "c"), ("", None), ("a a a a a a a a a", None)], 6, CONFIG)
    assert texts.lengths.tolist() == [6, 2, 6]
    batch = texts.batch(np.array([2, 0]), torch.device("cpu"))
    assert batch.input_ids.tolist() == [2, 5, 5, 5, 5, 3, 2, 5, 6, 3, 7, 3]
    assert batch.token_type_ids.tolist() == [0] * 10 + [1, 1]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert batch.cu_seqlens.tolist() == [0, 6, 12]
    assert [rows.tolist() for rows in texts.in_order(2)] == [[0, 1], [2]]


def test_input_the_model_cannot_encode_is_refused() -> None:
    with pytest.raises(UserError, match="max_seq_length=9"):
        encode_texts(TOKENIZER, [("a", None)], 9, CONFIG)
    with pytest.raises(UserError, match="type_vocab_size=1 has no second segment"):
        encode_texts(TOKENIZER, [("a", "b")], 8, CONFIG.replace(type_vocab_size=1))


def test_means_are_over_each_texts_own_tokens() -> None:
    hidden = torch.arange(12.0).reshape(6, 2)
    found = mean_vectors(hidden, torch.tensor([0, 1, 6], dtype=torch.int32))
    torch.testing.assert_close(found, torch.stack([hidden[0], hidden[1:].mean(0)]))
