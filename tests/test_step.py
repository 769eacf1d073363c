"""The step asks the host for nothing, and a recording of it replays to the bits of the eager one."""

import pytest
import torch
from support.recording import Recording
from support.steps import bits, eager, make_batch, make_step, same

from albert_fast.optimizer import Optimizer
from albert_fast.options import UserError
from albert_fast.step import TrainStep


def whole_step(step: TrainStep) -> None:
    for _ in range(step.config.gradient_accumulation_steps):
        step.micro_step()
    step.update()


def replayed(step: TrainStep, steps: int = 20) -> list[torch.Tensor]:
    """Record one step while the state stays as it was, then replay it with new batches."""
    step.inputs.load(make_batch(99))
    with step.untouched(), Recording() as recording:
        whole_step(step)
    for index in range(steps):
        step.inputs.load(make_batch(index))
        recording.replay()
    return bits(step)


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
@pytest.mark.parametrize("ln_type", ["postln", "preln"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_replay_gives_the_bits_of_the_eager_step(optimizer, ln_type, dtype):
    options = dict(dtype=dtype, train=dict(optimizer=optimizer), ln_type=ln_type)
    assert same(replayed(make_step(**options)), eager(make_step(**options)))


@pytest.mark.parametrize("recompute", ["ffn", "layer"])
def test_recomputing_replays_too_and_changes_no_bit(recompute):
    plain = eager(make_step(), 5)
    assert same(replayed(make_step(train=dict(recompute=recompute)), 5), plain)


def freeze_learning_rate(monkeypatch):
    rate = Optimizer.learning_rate
    monkeypatch.setattr(Optimizer, "learning_rate", lambda self: torch.full((), float(rate(self))))


def freeze_step_count(monkeypatch):
    update = Optimizer.update

    def counted(self, *args):
        self.count = getattr(self, "count", int(self.steps)) + 1
        update(self, *args)
        self.steps.fill_(self.count)

    monkeypatch.setattr(Optimizer, "update", counted)


def freeze_dropout_seed(monkeypatch):
    losses = TrainStep.losses

    def with_python_key(self):
        key = self.key
        self.key = torch.tensor([int(k) for k in key])
        result = losses(self)
        self.key = key
        return result

    monkeypatch.setattr(TrainStep, "losses", with_python_key)


@pytest.mark.parametrize("fault", [freeze_learning_rate, freeze_step_count, freeze_dropout_seed])
def test_a_replay_shows_what_a_graph_would_freeze(fault, monkeypatch):
    fault(monkeypatch)
    expected = eager(make_step(), 5)
    assert not same(replayed(make_step(), 5), expected)


@pytest.mark.parametrize("share_type", ["all", "None"])
def test_a_step_never_looks_at_the_device(share_type):
    step = make_step(share_type=share_type)
    signatures = []
    for index in range(3):
        step.inputs.load(make_batch(index))
        with Recording() as recording:
            whole_step(step)
        assert recording.data_dependent() == []
        signatures.append(recording.signature())
    assert signatures[0] == signatures[1] == signatures[2]


def test_the_lint_sees_a_look():
    with Recording() as recording:
        float(torch.ones(()))
        torch.ones(3).nonzero()
    assert len(recording.data_dependent()) == 2


def test_the_step_stays_on_its_device():
    """On the meta device an op that mixes in a CPU tensor of more than one element fails."""
    step = make_step(device="meta")
    whole_step(step)
    assert all(tensor.device.type == "meta" for tensor in step.mutable_tensors())


def test_untouched_restores_every_bit():
    step = make_step()
    eager(step, 3)
    before = bits(step)
    with step.untouched():
        step.inputs.load(make_batch(50))
        whole_step(step)
        assert not same(bits(step), before)
    assert same(bits(step), before)


def test_capture_without_cuda_is_refused_or_warned_about():
    with pytest.raises(UserError, match=r"the step was not captured: CUDA graphs need.*use --capture off"):
        make_step(train=dict(capture="on"))


def test_a_step_that_is_cut_short_leaves_every_bit():
    step = make_step(train=dict(gradient_accumulation_steps=2))
    assert step(make_batch(index) for index in range(2))
    before = bits(step)
    assert not step([make_batch(7)])
    assert same(bits(step), before)
    assert step.read_metrics()["tokens"] > 0


def test_accumulation_is_the_mean_of_the_micro_batches():
    """Two micro-batches in a step give the mean of their gradients, whatever the order of accumulation."""
    config = dict(hidden_dropout_prob=0.0, train=dict(max_grad_norm=0.0, optimizer="adamw", warmup_steps=0))
    singles = []
    for index in range(2):
        step = make_step(**config)
        step.inputs.load(make_batch(index))
        step.micro_step()
        singles.append(step.flat.grad.clone())
    config["train"]["gradient_accumulation_steps"] = 2
    step = make_step(**config)
    for index in range(2):
        step.inputs.load(make_batch(index))
        step.micro_step()
    torch.testing.assert_close(step.flat.grad, singles[0] + singles[1])
    step.update()
    mean = (singles[0] + singles[1]) / 2
    torch.testing.assert_close(step.optimizer.gradient_norm, mean.norm())
    torch.testing.assert_close(step.optimizer.exp_avg, 0.1 * mean, atol=1e-8, rtol=1e-4)


def test_metrics_are_means_since_the_last_reading():
    step = make_step(hidden_dropout_prob=0.0)
    step.inputs.load(make_batch(0))
    with torch.no_grad():
        expected = step.losses()
    step([make_batch(0)])
    metrics = step.read_metrics()
    assert metrics["mlm_loss"] == pytest.approx(float(expected.mlm_loss))
    assert metrics["loss"] == pytest.approx(float(expected.loss))
    assert metrics["tokens"] == make_batch(0).num_tokens
    assert metrics["learning_rate"] == pytest.approx(0.002)
    assert step.read_metrics()["tokens"] == 0


def test_evaluation_leaves_the_run_alone():
    step = make_step()
    eager(step, 2)
    before = bits(step)
    first = step.evaluate(make_batch(i) for i in range(3))
    assert first == step.evaluate(make_batch(i) for i in range(3))
    assert same(bits(step), before)


def test_metrics_are_read_with_one_wait():
    step = make_step(train=dict(log_tensors=True))
    step([make_batch(0)])
    with Recording() as recording:
        metrics = step.read_metrics()
    assert len([name for name in recording.names() if "_to_copy" in name or "_local_scalar_dense" in name]) <= 4
    assert recording.data_dependent() == []
    assert metrics["skipped_updates"] == 0
    assert metrics["last_gradient_norm"] == pytest.approx(metrics["gradient_norm"])


def test_evaluation_is_the_mean_over_predicted_tokens_however_they_are_cut():
    step = make_step(hidden_dropout_prob=0.0)
    batches = [make_batch(i) for i in range(4)]
    scores, words, pairs = step.evaluate(batches), 0.0, 0.0
    loss = order = 0.0
    for batch in batches:
        alone = step.evaluate([batch])
        words, pairs = words + batch.masked_lm_weights.sum(), pairs + batch.sentence_order_weights.sum()
        loss += alone["mlm_loss"] * batch.masked_lm_weights.sum()
        order += alone["sop_loss"] * batch.sentence_order_weights.sum()
    assert scores["mlm_loss"] == pytest.approx(loss / words, rel=1e-5)
    assert scores["sop_loss"] == pytest.approx(order / pairs, rel=1e-5)
    assert scores["mlm_loss"] != pytest.approx(sum(step.evaluate([b])["mlm_loss"] for b in batches) / 4, rel=1e-5)
