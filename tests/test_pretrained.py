"""A model's folder is read back as written, and mismatches are named."""

import pytest
import torch
from support.tiny_models import tiny_config

from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError


def test_save_and_load(tmp_path):
    model = AlbertForPreTraining(tiny_config(share_type="ffn", extra={"note": 1}))
    model.save_pretrained(tmp_path)
    loaded = AlbertForPreTraining.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(UserError, match=r"feed_forward\.1\.intermediate\.weight is missing"):
        AlbertForPreTraining.from_pretrained(tmp_path, share_type="None")


@pytest.mark.parametrize("named", [b"", b"\xff\xfe", b"checkpoint-9\n"], ids=["empty", "bytes", "gone"])
def test_a_missing_newest_checkpoint_is_named(named, tmp_path):
    (tmp_path / "last").write_bytes(named)
    with pytest.raises(UserError, match=r"last names '.*', which does not exist; give the folder of a checkpoint"):
        AlbertForPreTraining.from_pretrained(tmp_path)


@pytest.mark.parametrize("index", ["{}", "[]", "{"])
def test_an_index_without_checksums_is_named(index, tmp_path):
    AlbertForPreTraining(tiny_config()).save_pretrained(tmp_path)
    (tmp_path / "checkpoint.json").write_text(index)
    with pytest.raises(UserError, match=r"model.safetensors: damaged: checkpoint.json beside it lacks"):
        AlbertForPreTraining.from_pretrained(tmp_path)
