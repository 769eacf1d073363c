"""The captured step on a device: equal to the eager one, fresh at every replay, flat in memory, silent to the host."""

import pytest
import torch
from support.steps import make_batch, make_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def make(capture: str, dtype=torch.bfloat16, ops="auto", **options):
    return make_step(dtype, train=dict(capture=capture), device="cuda", ops=ops, **options)


def run(step, steps: int = 20, first: int = 0):
    for index in range(first, first + steps):
        step([make_batch(index)])
    torch.cuda.synchronize()
    return [tensor.clone() for tensor in step.mutable_tensors()]


@pytest.mark.parametrize("ops", ["auto", "torch"])
@pytest.mark.parametrize("ln_type", ["postln", "preln"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_replay_equals_eager_to_the_bit_when_deterministic(dtype, ln_type, ops):
    torch.use_deterministic_algorithms(True)
    try:
        eager, captured = (run(make(capture, dtype, ops, ln_type=ln_type)) for capture in ("off", "on"))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))


def test_replay_equals_eager_in_numbers():
    for a, b in zip(run(make("off")), run(make("on")), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-2)


def test_learning_rate_and_masks_advance():
    step = make("on")
    rates, losses = set(), set()
    for _ in range(5):
        step([make_batch(0)])
        metrics = step.read_metrics()
        rates.add(metrics["learning_rate"])
        losses.add(metrics["mlm_loss"])
    assert len(rates) == len(losses) == 5
    assert step.key.tolist() == [7, 5]


def test_capture_leaves_the_state_untouched():
    for a, b in zip(make("off").mutable_tensors(), make("on").mutable_tensors(), strict=True):
        assert torch.equal(a, b)


def test_memory_is_flat_over_a_thousand_replays():
    step = make("on")
    run(step, 10)
    before = torch.cuda.memory_reserved()
    run(step, 1000)
    assert torch.cuda.memory_reserved() == before


def test_a_step_never_waits_for_the_device():
    step = make("off")
    run(step, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.micro_step()
        step.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
