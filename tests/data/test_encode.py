"""Lines to ids and word starts by models that are no WordPiece."""

import numpy as np
import pytest
import tokenizers
from support.preparing import run, write
from tokenizers import decoders, models, pre_tokenizers, trainers

from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.shards import read_documents
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.data.verify import VerifyOptions, verify
from albert_fast.options import UserError


def test_byte_level_bpe(tmp_path, vocab):
    """A tokenizer.json that is no WordPiece: words as its pre-tokenizer splits them, no unknown token needed."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    lines = ["the cat, the hat", "a bat sat on the mat", "我们 the"]
    specials = ["<s>", "<pad>", "</s>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(lines * 9, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    source = write(tmp_path / "t.txt", "\n".join([*lines, "<mask> </s>"]).encode())
    run([source], tmp_path / "out", str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "out")
    (document,) = read_documents(tmp_path / "out")
    assert [tokenizer.decode(s.ids, skip_special_tokens=False) for s in document] == [*lines, "<mask> </s>"]
    assert not set(document[-1].ids.tolist()) & tokenizer.special_ids
    words = [tokenizer.decode(word) for word in np.split(document[0].ids, np.flatnonzero(document[0].word_starts)[1:])]
    assert words == ["the", " cat", ",", " the", " hat"]
    verify(VerifyOptions(data=str(tmp_path / "out")))
    with pytest.raises(UserError, match="needs a WordPiece vocabulary"):
        run([source], tmp_path / "out2", str(tmp_path / "tokenizer.json"), segmenter="jieba")


def test_unigram_pieces_never_give_special_ids_and_words_follow_the_pre_tokenizer():
    pieces = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "\u2581ab", "c", "\u2581", "a", "b", "[", "]"]
    backend = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = Tokenizer(backend)
    ids, starts, lengths, _ = tokenizer.encode_lines(["ab abc [MASK]", "", "abc"])
    assert lengths.tolist() == [len(ids) - 2, 0, 2]
    tokens = [tokenizer.tokens[i] for i in ids]
    assert "[MASK]" not in tokens
    assert tokens[:3] == ["\u2581ab", "\u2581ab", "c"]
    assert starts[:3].tolist() == [True, True, False]
    assert starts[-2:].tolist() == [True, False]
