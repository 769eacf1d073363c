"""The whole training step on the kernels equals the step on the plain ops, and replays to its own bits."""

from functools import partial
from itertools import product

import pytest
import torch
from support import steps
from support.gates import assert_within, slow
from support.recording import Recording
from support.steps import LENGTH, make_batch

from albert_fast.packed import Packed
from albert_fast.step import TrainStep

make_step = partial(steps.make_step, num_hidden_layers=2)


def gradients(step: TrainStep) -> dict[str, torch.Tensor]:
    step.inputs.load(make_batch(3))
    step.micro_step()
    return step.flat.views(step.flat.grad)


WAYS = list(product(["all", "ffn", "attention", "None"], ["postln", "preln"]))
QUICK = [("all", "postln"), ("ffn", "preln")]


@pytest.mark.parametrize(("share_type", "ln_type"), [way if way in QUICK else slow(*way) for way in WAYS])
def test_gradients_of_the_step_equal_the_plain_ops(share_type, ln_type):
    plain, ours = (make_step(ops=ops, share_type=share_type, ln_type=ln_type) for ops in ("torch", "triton"))
    expected, actual = gradients(plain), gradients(ours)
    scale = plain.flat.grad.abs().max().item()
    for name in expected:
        if name.endswith("query_key_value.bias"):  # the key's part is zero in exact arithmetic
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6 * scale)
        else:
            assert_within(name, actual[name], expected[name], 2e-6)
    torch.testing.assert_close(ours.sums, plain.sums, rtol=1e-6, atol=0)


@pytest.mark.parametrize("ln_type", ["postln", slow("preln")])
def test_bf16_gradients_stay_as_close_to_fp32_as_the_plain_ops(ln_type):
    truth = gradients(make_step(ln_type=ln_type))
    plain, ours = (gradients(make_step(torch.bfloat16, ops=ops, ln_type=ln_type)) for ops in ("torch", "triton"))

    def distance(grads):
        flat = torch.cat([(grads[name] - truth[name]).flatten() for name in truth])
        return (flat.norm() / torch.cat([g.flatten() for g in truth.values()]).norm()).item()

    assert distance(ours) <= 1.5 * distance(plain) < 0.1


@pytest.mark.slow
def test_training_runs_as_on_the_plain_ops():
    results = []
    for ops in ("torch", "triton"):
        step = make_step(ops=ops, hidden_act="gelu_new")
        for index in range(4):
            step([make_batch(index)])
        results.append((step.read_metrics(), step.flat.master))
    (plain, weights), (ours, our_weights) = results
    assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert ours["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=1e-4)
    assert_within("weights", our_weights, weights, 1e-3)


@pytest.mark.parametrize("ln_type", [slow("postln"), "preln"])
def test_a_replay_gives_the_bits_of_the_eager_step(ln_type):
    eager, recorded = (make_step(torch.bfloat16, ops="triton", ln_type=ln_type) for _ in range(2))
    recorded.inputs.load(make_batch(99))
    with recorded.untouched(), Recording() as recording:
        recorded.micro_step()
        recorded.update()
    assert recording.data_dependent() == []
    assert any("add_layer_norm_backward" in name for name in recording.names())
    for index in range(2):  # the key moves on: masks frozen by the recording would show
        eager([make_batch(index)])
        recorded.inputs.load(make_batch(index))
        recording.replay()
    assert torch.equal(recorded.flat.master, eager.flat.master)
    assert torch.equal(recorded.sums, eager.sums)


@pytest.mark.parametrize("backend", ["aot_eager", slow("inductor")])
@pytest.mark.parametrize("ln_type", [slow("postln"), "preln"])
def test_torch_compile_takes_a_layer_whole(ln_type, backend):
    step = make_step(ops="triton", hidden_dropout_prob=0.0, ln_type=ln_type)
    encoder = step.model.albert.encoder
    for parameter in step.model.parameters():  # compiled autograd graphs return gradients
        del parameter.main_grad
    fields = make_batch(1)
    batch = Packed(*(torch.from_numpy(getattr(fields, name)) for name in
                     ("input_ids", "token_type_ids", "position_ids", "cu_seqlens")), LENGTH)  # fmt: skip
    layer = encoder.layers[0]
    x = torch.randn(len(fields.input_ids), 24, generator=torch.Generator().manual_seed(1))

    def run(function):
        leaf = x.clone().requires_grad_()
        y, residual = function(leaf * 1.0, leaf, batch)
        (residual.square().sum() + y.sum()).backward()
        weights = (layer.feed_forward.intermediate.weight, layer.attention.layer_norm.weight)
        grads = [leaf.grad, *(p.grad.clone() for p in weights)]
        step.model.zero_grad()
        return [y.detach(), *grads]

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for actual, expected in zip(run(compiled), run(layer), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
