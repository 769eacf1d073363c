"""GPUs: their peak and the sustained rates of a training step's ops, with sources."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

from albert_fast.options import UserError


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU's bf16 rates in FLOP/s, bytes/s and seconds.

    peak_flops is the data sheet's dense peak, the denominator of MFU. The others are what good kernels sustain: large
    matrix products (cuBLAS and our own kernels), FlashAttention 2 forward and backward, memory traffic (bytes read plus
    bytes written), one kernel launch inside a CUDA graph, and the bytes of an all-reduce over the link between GPUs.
    """

    name: str
    peak_flops: float
    product_flops: float
    own_product_flops: float
    flash_forward_flops: float
    flash_backward_flops: float
    bytes_per_second: float
    launch_seconds: float
    link_bytes_per_second: float
    source: str


def _card(
    name: str, peak: float, sheet_bytes: float, flash: float, link: float, source: str, **measured: float
) -> Card:
    """A card with rates `measured`, or estimated from the data sheet: 66% of its peak, 90% of its bandwidth."""
    rates = {
        "product_flops": 0.66 * peak,
        "own_product_flops": 0.61 * peak,
        "flash_forward_flops": flash,
        "flash_backward_flops": 0.86 * flash,
        "bytes_per_second": 0.9 * sheet_bytes,
        "launch_seconds": 2e-6,
        **measured,
    }
    return Card(name=name, peak_flops=peak, link_bytes_per_second=link, source=source, **rates)


# Peaks and bandwidths: NVIDIA's data sheets, dense (without sparsity), SXM variants. FlashAttention 2: Dao 2023
# (arXiv 2307.08691) for the A100 and H100, the same fraction of the peak elsewhere. Links: NVLink's unidirectional rate
# times the fraction that nccl-tests reports as bus bandwidth; PCIe for cards without NVLink.
_H100 = dict(product_flops=650e12, own_product_flops=600e12, flash_forward_flops=350e12, flash_backward_flops=300e12)
CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        _card("h100", 989e12, 3.35e12, 350e12, 360e9, "H100 SXM data sheet; large cuBLAS products 620 to 700 TFLOP/s",
              bytes_per_second=3.0e12, **_H100),
        _card("h200", 989e12, 4.8e12, 350e12, 360e9, "H200 SXM data sheet; an H100 with more bandwidth",
              bytes_per_second=4.3e12, **_H100),
        _card("b200", 2250e12, 8.0e12, 700e12, 720e9, "B200 (HGX) data sheet; shares of its peak as on the H100"),
        _card("a100", 312e12, 2.039e12, 190e12, 235e9, "A100 80 GB SXM data sheet; shares of it as on the H100"),
        _card("l40s", 362e12, 864e9, 150e12, 20e9, "L40S data sheet; PCIe 4.0 x16 between cards"),
        _card("rtx4090", 165.2e12, 1008e9, 100e12, 10e9, "Ada GPU architecture paper (fp32 accumulation); PCIe 4.0",
              product_flops=150e12, own_product_flops=135e12),
    )
}  # fmt: skip


def find_card(device_name: str) -> Card | None:
    """The card with the torch device name `device_name` ("NVIDIA H100 80GB HBM3"), if it is in CARDS."""
    name = device_name.lower().replace(" ", "")
    return next((card for card in CARDS.values() if card.name in name), None)


def load_card(name: str, rates: str | None = None) -> Card:
    """The card `name`, with fields replaced by those in the JSON file `rates`.

    Raises:
        UserError: the name or a key is unknown, or a rate is not a positive number.
    """
    if name not in CARDS:
        raise UserError(f"predict={name!r} is unknown; use one of {', '.join(CARDS)}, with --rates for any other card")
    card = CARDS[name]
    if rates is None:
        return card
    try:
        given = json.loads(Path(rates).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"rates {rates}: {error.strerror or error}; give a JSON file of rates") from None
    except ValueError as error:
        raise UserError(f"rates {rates} is not JSON ({error})") from None
    known = [f.name for f in fields(Card)]
    if not isinstance(given, dict) or (unknown := sorted(set(given) - set(known))):
        what = f"has unknown keys {', '.join(unknown)}" if isinstance(given, dict) else "is not an object"
        raise UserError(f"rates {rates} {what}; the known keys are {', '.join(known)}")
    for key, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
        if not (isinstance(value, str) if key in ("name", "source") else number):
            rule = "a string" if key in ("name", "source") else "a number above 0"
            raise UserError(f"rates {rates}: {key}={value!r} must be {rule}")
    return replace(card, **{"source": rates, **given})
