"""The step's static inputs hold what the last batch held, field by field, at the addresses that they began with."""

import numpy as np
import torch
from support.steps import LENGTH, make_batch

from albert_fast.inputs import FIELDS, Inputs


def test_fields_hold_the_batch_that_was_loaded_last():
    inputs = Inputs(make_batch(0), LENGTH, torch.device("cpu"))
    places = {name: field.data_ptr() for name, field in inputs.fields.items()}
    for index in range(5):
        batch = make_batch(index)
        inputs.load(batch)
        for name in FIELDS:
            expected = np.atleast_1d(getattr(batch, name))
            assert inputs.fields[name].is_floating_point() == (expected.dtype == np.float32)
            assert np.array_equal(inputs.fields[name].numpy(), expected), name
    assert places == {name: field.data_ptr() for name, field in inputs.fields.items()}


def test_every_field_begins_at_128_bytes_of_one_buffer():
    inputs = Inputs(make_batch(0), LENGTH, torch.device("cpu"))
    assert all(start % 32 == 0 for start, _, _ in inputs.layout.values())
    assert {field.untyped_storage().data_ptr() for field in inputs.fields.values()} == {
        inputs.device_buffer.untyped_storage().data_ptr()
    }
