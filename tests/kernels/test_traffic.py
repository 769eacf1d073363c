"""What the kernels move: every output once, nothing out of bounds, no atomics, and bytes within the gates."""

import pytest
import torch
import triton
import triton.language as tl
from support.gates import slow
from support.traffic import assert_clean

from albert_fast.kernels import add_layer_norm, gelu_ffn
from bench import traffic
from bench.counting import counting
from bench.shapes import SHAPES

WAYS = ["library", "pointer", "tma"]


@pytest.mark.parametrize(("pre", "dropout"), [(True, 0.1), (False, 0.0), slow(True, 0.0), slow(False, 0.1)], ids=str)
@pytest.mark.parametrize("shape", [slow((1, 128)), (9, 312), slow((11, 768)), (5, 1023), slow((70, 7))], ids=str)
def test_layer_norm_is_clean_at_ragged_shapes(shape, dropout, pre):
    for counted in traffic.count_layer_norm(*shape, torch.bfloat16, dropout, pre).values():
        assert_clean(counted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [slow((1, 16, 64)), (37, 72, 200), slow((130, 128, 384)), (9, 13, 7)], ids=str)
def test_ffn_is_clean_at_ragged_shapes(shape, way):
    t = traffic._tensors(*shape, torch.bfloat16)
    with counting() as forward:
        z, _ = gelu_ffn._linear_gelu(t["x"], t["weight1"], t["bias1"], "gelu", way)
    with counting() as backward:
        gelu_ffn._backward._init_fn(t["grad"], t["weight2"], z, "gelu", way, None)
    assert_clean(forward)
    assert_clean(backward)


@pytest.mark.parametrize("n_partials", [1, 300])
def test_sums_are_clean(n_partials):
    with counting() as counted:
        torch.ops.albert_fast.sum_partials(torch.empty(n_partials, 3, 312))
    assert_clean(counted)


@pytest.mark.parametrize(
    "shape",
    [s if (s.name, s.tokens) == ("base", 16384) else slow(s) for s in SHAPES],
    ids=lambda s: f"{s.name}-T{s.tokens}",
)
@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=lambda p: f"dropout{p}")
def test_layer_norm_moves_little_more_than_it_must_and_far_less_than_eager(shape, dropout):
    forward, backward = traffic.layer_norm_rows(shape, torch.bfloat16, dropout, pre=False)
    assert forward.bytes <= 1.03 * forward.least_bytes
    assert backward.bytes <= 1.05 * backward.least_bytes
    assert backward.partial_bytes <= 8 << 20
    ours = forward.bytes + backward.bytes
    assert forward.eager_bytes + backward.eager_bytes >= (1.9 if dropout else 1.5) * ours
    assert forward.eager_autocast_bytes + backward.eager_autocast_bytes >= 2.2 * ours


@pytest.mark.parametrize("way", [slow("library"), slow("pointer"), "tma"])
def test_ffn_epilogues_store_each_number_once_and_save_what_they_should(way):
    for row in traffic.ffn_rows(SHAPES[4], way):
        assert row.epilogue_stores == 1.0
        if way == "library":
            assert row.bytes <= 1.001 * row.eager_bytes  # one pass less, one h more: as many bytes, 4 units less kept
        else:
            assert row.bytes <= 1.001 * row.least_bytes
            assert row.eager_bytes >= 1.25 * row.bytes


def test_bytes_are_linear_in_sizes():
    def layer_norm(tokens):
        return {
            d: traffic.moved(t) for d, t in traffic.count_layer_norm(tokens, 312, torch.bfloat16, 0.1, True).items()
        }

    def ffn(*sizes):
        return {d: moved for d, (moved, *_) in traffic.count_ffn(*sizes, "tma").items()}

    assert traffic.multilinear(layer_norm, [traffic.LAYER_NORM_TOKENS], [45]) == layer_norm(45)
    sizes = (200, 72, 328)  # not multiples of any tile
    assert traffic.multilinear(ffn, traffic.FFN_SIZES, sizes) == ffn(*sizes)


@pytest.mark.slow
def test_the_smallest_shape_counted_whole_equals_the_extrapolation():
    shape = SHAPES[0]
    counted = traffic.count_layer_norm(shape.tokens, shape.hidden_size, torch.bfloat16, 0.0, False)
    for row in traffic.layer_norm_rows(shape, torch.bfloat16, 0.0, pre=False):
        assert traffic.moved(counted[row.direction]) == row.bytes
        assert counted[row.direction].total("written_bytes", "partial_ptr") == row.partial_bytes
        assert_clean(counted[row.direction])


# ------------------------------------------------------------------------------------------------- the counter's own


@triton.jit
def _careless_kernel(source_ptr, target_ptr, n, BLOCK: tl.constexpr, ATOMIC: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    value = tl.load(source_ptr + offsets)  # no mask
    if ATOMIC:
        tl.atomic_add(target_ptr + offsets, value, offsets < n)
    tl.store(target_ptr + offsets // 2, value, offsets < n)


def test_the_counter_sees_what_it_should():
    source, target = torch.zeros(40), torch.zeros(40)
    with counting() as counted:
        _careless_kernel[(1,)](source, target, 40, BLOCK=64, ATOMIC=False)
    assert counted.out_of_bounds == 1  # the load; the store stays inside
    with counting() as counted:
        _careless_kernel[(1,)](torch.zeros(64), target, 40, BLOCK=64, ATOMIC=False)
    assert counted.out_of_bounds == 0
    assert counted.total("read_bytes") == 64 * 4
    assert counted.total("written_bytes") == 40 * 4
    assert counted.arguments[1].written.max() == 2
    with pytest.raises(AssertionError, match="exactly once"):
        assert_clean(counted)
    with counting() as counted, pytest.raises(Exception, match="atomic"):
        _careless_kernel[(1,)](torch.zeros(64), target, 40, BLOCK=64, ATOMIC=True)
    assert counted.atomics == 1


def test_kernels_compute_again_after_counting():
    ones = torch.ones(2, 16)
    with counting():
        pass
    y = add_layer_norm.add_pre_layer_norm(ones, ones[0], ones, ones[0], ones[0], 1e-5)[1]
    assert torch.equal(y, torch.full((2, 16), 3.0))
