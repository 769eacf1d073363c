"""The model against HuggingFace's, against numerical derivatives, and against its published count of parameters."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
import transformers
from support.tiny_models import padded_batch, pretraining_losses, tiny_config

from albert_fast.config import AlbertConfig
from albert_fast.convert.names import huggingface_names
from albert_fast.model import AlbertForPreTraining
from albert_fast.packed import pack

COMBINATIONS = list(product(("all", "ffn", "attention", "None"), ("postln", "preln"), ("zh", "google")))


def huggingface_weights(model):
    """HuggingFace's state dict of a google-layout model."""
    names, own = huggingface_names(model.config), model.state_dict()
    weights = {
        name: part for ours in own for name, part in zip(names[ours], own[ours].chunk(len(names[ours])), strict=True)
    }
    return weights | {"predictions.decoder.bias": own["mlm_head.bias"]}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu"])
def test_huggingface_loss_and_every_gradient(groups, hidden_act):
    config = tiny_config(layout="google", num_hidden_groups=groups, hidden_act=hidden_act)
    model = AlbertForPreTraining(config)
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    keys = {
        k: v for k, v in config.to_dict().items() if k not in ("layout", "ln_type", "share_type", "final_layer_norm")
    }
    reference = transformers.AlbertForPreTraining(transformers.AlbertConfig(**keys, attn_implementation="eager")).eval()
    weights = huggingface_weights(model)
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert set(missing) <= {"predictions.decoder.weight", "albert.embeddings.position_ids"}
    assert not unexpected

    ids, mask, types, positions = padded_batch(config.vocab_size)
    losses = pretraining_losses(model, ids, mask, types, positions)
    losses.loss.backward()
    labels = torch.full_like(ids, -100).scatter_(1, positions, ids.gather(1, positions))
    order = torch.arange(len(ids)) % 2
    expected = reference(ids, mask, types, labels=labels, sentence_order_label=order, output_hidden_states=True)
    expected.loss.backward()
    torch.testing.assert_close(losses.loss, expected.loss)

    output = model(ids, mask, types, output_hidden_states=True)
    real = mask.bool()
    for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.sop_logits, expected.sop_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.prediction_logits[real], expected.prediction_logits[real], atol=1e-4, rtol=1e-5)

    theirs = {name: p.grad for name, p in reference.named_parameters()}
    for p in model.parameters():
        p.data = p.grad  # so that the same mapping of names serves the gradients
    for name, grad in huggingface_weights(model).items():
        if name != "predictions.decoder.bias":
            torch.testing.assert_close(grad, theirs[name], atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_relu_in_the_zh_layout_is_the_relu_of_its_equations():
    """What HuggingFace cannot compute: one layer and the masked-word head written out."""
    config = tiny_config(layout="zh", hidden_act="relu", num_hidden_layers=1)
    model = AlbertForPreTraining(config)
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    ids, mask, types, _ = padded_batch(config.vocab_size, lengths=(9,))
    packed, _ = pack(ids, mask, types)
    albert, layer = model.albert, model.albert.encoder.layers[0]

    def norm(layer_norm, x):
        return F.layer_norm(x, x.shape[-1:], layer_norm.weight, layer_norm.bias, config.layer_norm_eps)

    x = albert.embeddings(packed)
    a = norm(layer.attention.layer_norm, x + layer.attention(x, packed) + layer.attention.output.bias)
    w1, w2 = layer.feed_forward.intermediate, layer.feed_forward.output
    fed = F.linear(F.relu(F.linear(a, w1.weight, w1.bias)), w2.weight, w2.bias)
    y = norm(layer.feed_forward.layer_norm, a + fed)
    torch.testing.assert_close(albert(packed), y)
    head = model.mlm_head
    z = norm(head.layer_norm, F.relu(F.linear(y, head.transform.weight, head.transform.bias)))
    logits = z @ albert.embeddings.projection.weight @ albert.embeddings.word_embeddings.weight.T + head.bias
    torch.testing.assert_close(model(ids, mask, types).prediction_logits[0], logits)


@pytest.mark.parametrize(("share_type", "ln_type", "layout"), COMBINATIONS)
def test_gradcheck(share_type, ln_type, layout):
    shape = dict(hidden_size=6, intermediate_size=5, num_hidden_layers=2, embedding_size=4, vocab_size=11)
    final = ln_type == "preln"
    config = tiny_config(share_type=share_type, ln_type=ln_type, layout=layout, final_layer_norm=final, **shape)
    model = AlbertForPreTraining(config).double()
    torch.manual_seed(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn_like(p)
    ids, mask, types, positions = padded_batch(config.vocab_size, lengths=(5, 3))
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*parameters):
        return torch.func.functional_call(
            _Loss(model),
            {f"model.{n}": p for n, p in zip(names, parameters, strict=True)},
            (ids, mask, types, positions),
        )

    assert torch.autograd.gradcheck(loss, values, fast_mode=True, atol=1e-6)


class _Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *batch):
        return pretraining_losses(self.model, *batch).loss


@pytest.mark.parametrize(("share_type", "ln_type", "layout"), COMBINATIONS)
@pytest.mark.parametrize("recompute", ["none", "ffn", "layer"])
def test_hidden_states_of_some_positions_are_those_of_all_and_so_are_their_gradients(
    share_type, ln_type, layout, recompute
):
    config = tiny_config(share_type=share_type, ln_type=ln_type, layout=layout)
    model = AlbertForPreTraining(config).double()
    model.albert.encoder.recompute = recompute
    ids, mask, types, _ = padded_batch(config.vocab_size)
    packed, _ = pack(ids, mask, types)
    positions = torch.tensor([0, 16, 21, 3, 31, 3])  # of each sequence, out of order, one twice
    scale = torch.randn(len(positions), config.hidden_size, dtype=torch.float64)
    gradients = []
    for hidden in (model.albert(packed, positions), model.albert(packed)[positions]):
        (hidden * scale).sum().backward()
        gradients.append([(name, p.grad) for name, p in model.albert.named_parameters() if p.grad is not None])
        model.zero_grad()
    torch.testing.assert_close(model.albert(packed, positions), model.albert(packed)[positions])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for (name, actual), (_, expected) in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, msg=name)


@pytest.mark.parametrize("recompute", ["ffn", "layer"])
@pytest.mark.parametrize("ln_type", ["postln", "preln"])
def test_recompute_changes_no_gradient(recompute, ln_type):
    config = tiny_config(ln_type=ln_type, hidden_dropout_prob=0.1)
    gradients = []
    for mode in ("none", recompute):
        torch.manual_seed(3)
        model = AlbertForPreTraining(config)
        model.albert.encoder.recompute = mode
        ids, mask, types, _ = padded_batch(config.vocab_size)
        packed, _ = pack(ids, mask, types)
        packed.dropout_key = torch.tensor([5, 7])
        model.albert(packed).square().sum().backward()
        gradients.append([p.grad for p in model.albert.encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(("layout", "parameters"), [("zh", 11_492_234), ("google", 10_669_322)])
def test_parameters_are_counted_once(layout, parameters):
    with torch.device("meta"):
        model = AlbertForPreTraining(AlbertConfig.from_preset("base", layout=layout))
    assert sum(p.numel() for p in model.parameters()) == parameters
