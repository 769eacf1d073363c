"""The heads: ids that only pad the vocabulary are never predicted."""

import pytest
import torch
from support.tiny_models import padded_batch, pretraining_losses, tiny_config

from albert_fast.model import AlbertForPreTraining


@pytest.mark.parametrize("main_grad", [False, True])
@pytest.mark.parametrize("layout", ["zh", "google"])
def test_ids_that_pad_the_vocabulary_are_never_predicted(layout, main_grad):
    """A model of 61 ids of which 58 are real is the model of 58, with three rows that get no gradient."""
    padded = AlbertForPreTraining(tiny_config(layout=layout, real_vocab_size=58))
    for p in padded.parameters():
        p.data += 0.2 * torch.randn_like(p)
    real = AlbertForPreTraining(tiny_config(layout=layout, vocab_size=58))
    weights = padded.state_dict()
    for name in ("albert.embeddings.word_embeddings.weight", "mlm_head.bias"):
        weights[name] = weights[name][:58]
    real.load_state_dict(weights)
    ids, mask, types, positions = padded_batch(58)
    logits = padded(ids, mask, types, positions).prediction_logits
    assert torch.isinf(logits[..., 58:]).all()
    torch.testing.assert_close(logits[..., :58], real(ids, mask, types, positions).prediction_logits)
    if main_grad:
        for p in padded.parameters():
            p.main_grad = torch.zeros_like(p)
    losses = [pretraining_losses(model, ids, mask, types, positions).loss for model in (padded, real)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    expected = dict(real.named_parameters())
    for name, p in padded.named_parameters():
        grad = p.main_grad if main_grad else p.grad
        torch.testing.assert_close(grad[: len(expected[name])], expected[name].grad, atol=1e-6, rtol=1e-5, msg=name)
        assert not grad[len(expected[name]) :].any()
