"""A card's rates, replaced by the user's file and checked."""

import json

import pytest
from support.ledger_steps import H100, spec

from albert_fast.cards import load_card
from albert_fast.measure.pricing import price
from albert_fast.options import UserError


def test_a_file_replaces_rates(tmp_path):
    file = tmp_path / "rates.json"
    file.write_text(json.dumps({"name": "half", "bytes_per_second": H100.bytes_per_second / 2}))
    half = load_card("h100", str(file))
    assert (half.name, half.product_flops) == ("half", H100.product_flops)
    assert price(spec(), half).classes["LayerNorm"] == pytest.approx(2 * price(spec(), H100).classes["LayerNorm"])


@pytest.mark.parametrize(("text", "message"), [
    ('{"speed": 1}', "unknown keys speed"), ('{"peak_flops": 0}', "peak_flops=0"), ("[]", "not an object"),
    ('{"peak_flops": "fast"}', "peak_flops='fast'"), ("{", "not JSON"), ('{"peak_flops": Infinity}', "above 0"),
])  # fmt: skip
def test_rates_are_checked(text, message, tmp_path):
    file = tmp_path / "rates.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_card("h100", str(file))
