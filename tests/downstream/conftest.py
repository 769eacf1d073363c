"""Fixtures of the fine-tuning tests."""

from pathlib import Path

import pytest
import torch
from support.finetuning import LAYERS, SIZES, TOKENS

from albert_fast.config import AlbertConfig
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.model import AlbertForPreTraining


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A folder with a small random model and its vocabulary."""
    torch.manual_seed(0)
    AlbertForPreTraining(AlbertConfig(**SIZES, **LAYERS, initializer_range=0.1)).save_pretrained(tmp_path / "model")
    wordpiece_tokenizer(TOKENS).save(tmp_path / "model")
    return tmp_path / "model"
