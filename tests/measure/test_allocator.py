"""What the allocators see of a real step is what was predicted."""

import pytest
from support.memory_steps import small, spec

from albert_fast.measure.allocator import measure
from albert_fast.measure.memory import LN_TYPES, SHARE_TYPES
from albert_fast.measure.predict import predict


@pytest.mark.parametrize("ln_type", LN_TYPES)
@pytest.mark.parametrize("share_type", SHARE_TYPES)
def test_prediction_is_what_the_cpu_allocator_sees(share_type, ln_type):
    config = small(share_type=share_type, ln_type=ln_type)
    predicted, measured = predict(spec(config)), measure(spec(config))
    assert predicted.peak_bytes == pytest.approx(measured["peak_bytes"], rel=0.05)
    static = predicted.parameters_bytes + predicted.gradients_bytes + predicted.optimizer_bytes
    assert static == pytest.approx(measured["static_bytes"], rel=0.02)
    assert measured["high_water_mark_bytes"] > measured["peak_bytes"]
