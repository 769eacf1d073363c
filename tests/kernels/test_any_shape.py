"""Ragged and extreme shapes: a kernel's error is at most twice that of the plain op in the same dtype, against fp64."""

import pytest
import test_add_layer_norm as layer_norm
import test_gelu_ffn as ffn
from gates import DTYPES

from albert_fast import ops
from albert_fast.kernels import add_layer_norm, gelu_ffn

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=6, deadline=None)
@given(
    tokens=st.integers(1, 20),
    hidden=st.integers(2, 700),
    dtype=st.sampled_from(DTYPES),
    dropout=st.sampled_from([0.0, 0.1, 0.9]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_layer_norm_of_any_shape(tokens, hidden, dtype, dropout, scale):
    tensors = [(t * scale).to(dtype) for t in layer_norm.inputs(tokens, hidden)]
    key = layer_norm.key_of()
    ours, plain = (layer_norm.run(i, tensors, dropout, key, epsilon=1e-5) for i in (add_layer_norm, ops))
    truth = layer_norm.run(ops, [t.double() for t in tensors], dropout, key, epsilon=1e-5)
    for name in truth:
        size = truth[name].abs().max()
        error, plain_error = ((r[name].double() - truth[name]).abs().max() for r in (ours, plain))
        assert error <= 2 * plain_error + 1e-6 * size, f"{name}: {error} against the plain op's {plain_error}"


@settings(max_examples=6, deadline=None)
@given(
    tokens=st.integers(1, 140),
    hidden=st.integers(1, 80),
    feed_forward=st.integers(1, 300),
    dtype=st.sampled_from(DTYPES),
    implementation=st.sampled_from(ffn.IMPLEMENTATIONS),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
)
def test_ffn_of_any_shape(tokens, hidden, feed_forward, dtype, implementation, scale):
    x, *parameters = ffn.inputs(tokens, hidden, feed_forward, dtype)
    tensors = [x * scale, *parameters]
    ours = ffn.run(gelu_ffn.gelu_ffn, tensors, implementation=implementation)
    plain = ffn.run(ops.gelu_ffn, tensors)
    truth = ffn.run(ops.gelu_ffn, [t.double() for t in tensors])
    for name in truth:
        size = truth[name].abs().max()
        error, plain_error = ((r[name].double() - truth[name]).abs().max() for r in (ours, plain))
        assert error <= 2 * plain_error + 2e-6 * size, f"{name}: {error} against the plain op's {plain_error}"
