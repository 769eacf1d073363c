"""A model's folder is read back as it was written; what does not fit it is named."""

import pytest
import torch
from support.tiny_models import tiny_config

from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError


def test_save_and_load(tmp_path):
    model = AlbertForPreTraining(tiny_config(share_type="ffn", extra={"note": 1}))
    model.save_pretrained(tmp_path)
    again = AlbertForPreTraining.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(UserError, match=r"feed_forward\.1\.intermediate\.weight is missing"):
        AlbertForPreTraining.from_pretrained(tmp_path, share_type="None")
