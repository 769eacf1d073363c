"""The step asks the host for nothing, and a recording of it replays to the bits of the eager one."""

import numpy as np
import pytest
import torch
from recording import Recording

from albert_fast.batches import Batch
from albert_fast.config import AlbertConfig, TrainConfig, UserError
from albert_fast.model import AlbertForPreTraining
from albert_fast.ops import Ops
from albert_fast.optimizer import Optimizer
from albert_fast.step import TrainStep

TOKENS, SEQUENCES, PREDICTIONS, LENGTH, VOCABULARY = 64, 6, 16, 24, 50


def make_batch(index: int) -> Batch:
    random = np.random.default_rng(index)
    lengths = random.integers(5, LENGTH + 1, size=3)
    lengths = lengths[np.cumsum(lengths) <= TOKENS]
    edges = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    used = int(edges[-1])
    cu_seqlens = np.full(SEQUENCES + 1, used, np.int32)
    cu_seqlens[: len(edges)] = edges
    positions = np.zeros(PREDICTIONS, np.int32)
    weights = np.zeros(PREDICTIONS, np.float32)
    count = int(random.integers(4, PREDICTIONS))
    positions[:count], weights[:count] = np.sort(random.permutation(used)[:count]), 1
    order = np.zeros(SEQUENCES, np.float32)
    order[: len(lengths)] = 1
    position_ids = np.zeros(TOKENS, np.int32)
    for start, length in zip(edges, lengths, strict=False):
        position_ids[start : start + length] = np.arange(length)
    return Batch(
        input_ids=random.integers(0, VOCABULARY, TOKENS, dtype=np.int32),
        token_type_ids=random.integers(0, 2, TOKENS, dtype=np.int32),
        position_ids=position_ids,
        cu_seqlens=cu_seqlens,
        masked_lm_positions=positions,
        masked_lm_ids=random.integers(0, VOCABULARY, PREDICTIONS, dtype=np.int32),
        masked_lm_weights=weights,
        sentence_order_labels=random.integers(0, 2, SEQUENCES, dtype=np.int32),
        sentence_order_weights=order,
        index=index, epoch=0, num_tokens=used, num_sequences=len(lengths), num_predictions=count,
    )  # fmt: skip


def make_step(dtype=torch.float32, train=None, device="cpu", **config) -> TrainStep:
    torch.manual_seed(0)
    shape = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, embedding_size=8)
    dropout = config.pop("hidden_dropout_prob", 0.1)
    config = AlbertConfig(
        **shape, vocab_size=VOCABULARY, max_position_embeddings=LENGTH, hidden_dropout_prob=dropout, **config
    )
    train = TrainConfig(**{"max_steps": 100, "warmup_steps": 5, "learning_rate": 0.01, "seed": 7, **(train or {})})
    model = AlbertForPreTraining(config, Ops()).to(device)
    return TrainStep(model, make_batch(0), LENGTH, train, dtype)


def bits(step: TrainStep) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in step._mutable()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


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


def eager(step: TrainStep, steps: int = 20) -> list[torch.Tensor]:
    for index in range(steps):
        step([make_batch(index)])
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
    assert all(tensor.device.type == "meta" for tensor in step._mutable())


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
    with pytest.raises(UserError, match="use --capture off"):
        make_step(train=dict(capture="on"))


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
