"""The tracker follows every storage from its allocation to its end, also those inside opaque ops."""

import torch

from albert_fast.measure.storage_tracker import StorageTracker
from albert_fast.ops import linear_cross_entropy


def test_evaluation_makes_no_gradients_of_the_vocabulary():
    x, weight, bias = torch.randn(8, 16), torch.randn(500, 16, requires_grad=True), torch.randn(500)
    peaks = []
    for context in (torch.enable_grad(), torch.no_grad()):
        with context, StorageTracker() as tracker:
            result = linear_cross_entropy(x, weight, bias, torch.arange(8), torch.ones(8))
            del result
        peaks.append(tracker.peak_bytes)
    assert peaks[1] < peaks[0] - 4 * weight.numel()


def test_tracker_follows_storages_and_not_views():
    with StorageTracker() as tracker:
        a = torch.ones(1000)
        b = a.view(10, 100)[2:]
        c = b + 1
        del a
        held = tracker.live_bytes
        del b
        freed = tracker.live_bytes
        c.mul_(2)
    assert (held, freed, tracker.peak_bytes) == (4000 + 3200, 3200, 4000 + 3200)
    assert [x.died is None for x in tracker.lifetimes] == [False, True]


def test_tracker_sees_inside_opaque_ops_when_given_their_bodies():
    x = torch.ones(1000)

    def body(x):
        return (x + 1) * 2

    with StorageTracker(bodies={torch.ops.aten.neg.default: body}) as tracker:
        y = -x
    assert tracker.peak_bytes == 8000
    assert tracker.live_bytes == 4000
    assert torch.equal(y, torch.full((1000,), 4.0))
