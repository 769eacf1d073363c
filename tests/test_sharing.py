"""Layers that shared weights get copies of their own: the same outputs, and moments divided by the uses."""

import pytest
import torch
from support.tiny_models import padded_batch, tiny_config

from albert_fast.config import AlbertConfig
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError
from albert_fast.sharing import unshare

PART = "albert.encoder.{}.{}.output.weight"


@pytest.mark.parametrize("share_type", ["ffn", "attention", "None"])
def test_every_output_stays(share_type: str) -> None:
    old = tiny_config(num_hidden_groups=2)
    new = old.replace(share_type=share_type)
    shared, own = AlbertForPreTraining(old), AlbertForPreTraining(new)
    own.load_state_dict(unshare(shared.state_dict(), old, new))
    ids, mask, types, _ = padded_batch(old.vocab_size)
    with torch.no_grad():
        assert torch.equal(own(ids, mask, types).prediction_logits, shared(ids, mask, types).prediction_logits)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_moments_are_divided_by_the_uses_that_are_lost(power: int) -> None:
    old, new = tiny_config(), tiny_config(share_type="ffn")  # of four layers: attention is used four times, then once
    state = AlbertForPreTraining(old).state_dict()
    found = unshare(state, old, new, power=power)
    for layer in range(4):
        torch.testing.assert_close(
            found[PART.format("attention", layer)] * 4**power, state[PART.format("attention", 0)]
        )
    assert torch.equal(found[PART.format("feed_forward", 0)], state[PART.format("feed_forward", 0)])
    assert PART.format("feed_forward", 1) not in found


def test_what_differs_cannot_be_shared() -> None:
    old: AlbertConfig = tiny_config(share_type="None")
    with pytest.raises(UserError, match="sharing can only be loosened"):
        unshare(AlbertForPreTraining(old).state_dict(), old, tiny_config())
