"""What several tests of prepare need."""

import pytest
from support.preparing import VOCABULARY

from albert_fast.data import text as text_module
from albert_fast.data.load_tokenizer import wordpiece_tokenizer


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocab")
    wordpiece_tokenizer(VOCABULARY).save(folder)
    return str(folder / "vocab.txt")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 512)
