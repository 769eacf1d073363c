"""Each problem of a run is reported once, and a healthy run gets no report."""

import math

import numpy as np
import pytest
from support.steps import make_batch

from albert_fast.config import TrainConfig
from albert_fast.health import Health, RunFailure, frequency_loss

HEALTHY = dict(loss=5.0, mlm_loss=4.5, sop_loss=0.5, sop_accuracy=0.8, learning_rate=1e-3, last_gradient_norm=1.0)


def watch(lines, max_steps=1000):
    """The notes on lines of (steps since the last, changes to HEALTHY)."""
    notes, step, skipped = [], 0, 0
    health = Health(TrainConfig(max_steps=max_steps), 25, 0, 0, notes.append)
    health.counts = np.full(4096, 100)
    for steps, changes in lines:
        step += steps
        skipped += changes.get("skipped_updates", 0)
        health.check(step, {**HEALTHY, **changes, "skipped_updates": skipped})
    return notes


def test_a_run_that_learns_gets_no_report():
    assert watch((10, dict(loss=9 - i / 20, mlm_loss=8 - i / 20, sop_accuracy=0.6)) for i in range(100)) == []


def test_only_consecutive_skipped_updates_end_the_run():
    skipping = dict(loss=math.nan, skipped_updates=10, last_gradient_norm=math.nan)
    with pytest.raises(RunFailure, match=r"step 40: the last 26 .*first step 15, gradient norm nan.*rate 0\.001"):
        watch([(10, {}), (10, {**skipping, "skipped_updates": 6}), (10, skipping), (10, skipping)])
    assert len(watch([(10, {**skipping, "skipped_updates": 9, "last_gradient_norm": 1.0})] * 20)) == 1
    assert RunFailure.exit_code == 3


@pytest.mark.parametrize("every", [1, 10])
def test_noise_is_not_reported_and_a_rise_in_the_same_noise_is(every):
    """The loss of a step of 256 tokens has a standard deviation of 0.8 nats."""
    steps = np.arange(every, 1001, every)
    rise = np.clip((steps - 300) / 700, 0, 1)  # one nat
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 0.8 / every**0.5, len(steps))
        assert watch((every, dict(loss=loss, mlm_loss=5.3)) for loss in 6 + noise) == []
        (note,) = watch((every, dict(loss=loss, mlm_loss=5.3)) for loss in 6 + noise + rise)
        assert "the run diverges. Usual remedies: half the --learning_rate" in note


def test_sentence_order_at_chance_is_reported_once():
    notes = watch((10, dict(sop_accuracy=0.5, sop_loss=0.69)) for _ in range(100))
    assert len(notes) == 1
    assert "still at chance" in notes[0]
    assert watch((10, dict(sop_accuracy=0.0, sop_loss=0.0)) for _ in range(100)) == []  # --no-sentence_order


def test_guessing_by_frequency_is_reported_once():
    uniform = math.log(4096)
    notes = watch((10, dict(mlm_loss=uniform)) for _ in range(100))
    assert len(notes) == 1
    assert "frequency" in notes[0]
    assert "a higher --learning_rate" in notes[0]
    assert watch((10, dict(mlm_loss=uniform - 0.5)) for _ in range(100)) == []


def test_the_loss_of_guessing_is_the_entropy_with_its_correction():
    """For counts of 3 and 1: -3/4 ln 3/4 - 1/4 ln 1/4 = 0.5623 nats, and (2 - 1) / (2 * 4)."""
    assert frequency_loss(np.array([3, 0, 1])) == pytest.approx(0.5623 + 0.125, abs=1e-4)
    assert frequency_loss(np.zeros(3, np.int64)) == math.inf


def test_a_diverging_run_is_not_advised_to_raise_its_learning_rate():
    losses = [9.0] * 5 + [14.0] * 95
    notes = watch((10, dict(loss=loss, mlm_loss=loss)) for loss in losses)
    assert len(notes) == 1
    assert "diverges" in notes[0]
    notes = watch((10, dict(loss=14.0, mlm_loss=14.0)) for _ in range(100))
    assert len(notes) == 1
    assert "another --learning_rate, lower if" in notes[0]


def test_target_tokens_are_counted_as_batches_pass():
    health = Health(TrainConfig(max_steps=10), 25, 0, 0, print)
    batches = [make_batch(i) for i in range(3)]
    assert list(health.counting(batches)) == batches
    ids = np.concatenate([b.masked_lm_ids[: b.num_predictions] for b in batches])
    assert health.counts.tolist() == np.bincount(ids).tolist()
