"""Predicted memory adds up, agrees with hand counts, and follows every way of running."""

import pytest
from support.memory_steps import small, spec

from albert_fast.config import AlbertConfig
from albert_fast.measure.allocator import measure
from albert_fast.measure.batch import full_batch
from albert_fast.measure.predict import CUBLAS_WORKSPACE_BYTES, fit, predict


@pytest.mark.parametrize("given", [
    dict(recompute="ffn"), dict(recompute="layer"), dict(precision="bf16"), dict(optimizer="adamw"),
    dict(layout="google"), dict(hidden_dropout_prob=0.1), dict(max_seq_length=48), dict(tokens_per_batch=16),
    dict(masked_lm_prob=0.5),
], ids=str)  # fmt: skip
def test_prediction_follows_every_way_of_running(given):
    given = {**given, **(dict(max_seq_length=16) if "tokens_per_batch" in given else {})}
    recompute = given.pop("recompute", "none")
    config = small(**{key: given.pop(key) for key in ("layout", "hidden_dropout_prob") if key in given})
    predicted, measured = (f(spec(config, recompute, **given)) for f in (predict, measure))
    assert predicted.peak_bytes == pytest.approx(measured["peak_bytes"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_prediction_is_what_published_sizes_take(preset, length):
    asked = spec(AlbertConfig.from_preset(preset), tokens_per_batch=1024, max_seq_length=length)
    assert predict(asked).peak_bytes == pytest.approx(measure(asked)["peak_bytes"], rel=0.05)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("tokens", [64, 4096], ids=["peak-in-update", "peak-in-step"])
def test_parts_add_up_to_the_peak(device, tokens):
    predicted = predict(spec(small(), device=device, tokens_per_batch=tokens))
    parts = predicted.parts()
    assert parts.pop("peak_bytes") == sum(parts.values())
    assert all(size > 0 for name, size in parts.items() if name != "activations_bytes")


def test_parameters_gradients_and_optimizer_are_those_of_the_flat_buffers():
    """11,492,234 parameters of base: fp32 master, bf16 copy, fp32 gradient, two fp32 moments, each padded a little."""
    predicted = predict(spec(AlbertConfig.from_preset("base"), device="cuda", precision="bf16"))
    count = 11_492_234
    assert predicted.parameters_bytes == pytest.approx(6 * count, rel=1e-3)
    assert predicted.gradients_bytes == pytest.approx(4 * count, rel=1e-3)
    assert predicted.optimizer_bytes == pytest.approx(8 * count, rel=1e-3)


def test_what_forward_keeps_is_what_the_equations_say():
    """In elements a token and layer: qkv 3H, context H, two sums and two outputs H each, both sides of gelu F."""
    config, tokens = small(), 1024
    saved = predict(spec(config, tokens_per_batch=tokens)).saved
    of_layer = sum(size for (_, layer), size in saved.items() if layer == 1)
    expected = tokens * 4 * (4 * config.hidden_size + 4 * config.hidden_size + 2 * config.intermediate_size)
    assert expected <= of_layer <= 1.1 * expected
    layers = {layer for _, layer in saved if layer is not None}
    assert layers == set(range(config.num_hidden_layers))


def test_flags_of_the_batches_change_the_prediction():
    usual, more = (predict(spec(small(), **given)).peak_bytes for given in ({}, {"masked_lm_prob": 0.5}))
    assert more > 1.05 * usual


def test_sharing_changes_weights_alone():
    shared, unshared = (predict(spec(small(share_type=s), tokens_per_batch=4096)) for s in ("all", "None"))
    assert shared.activations_bytes == unshared.activations_bytes
    assert unshared.parameters_bytes > 1.3 * shared.parameters_bytes


def test_recomputing_saves_memory():
    none, ffn, layer = (predict(spec(small(), r, tokens_per_batch=4096)) for r in ("none", "ffn", "layer"))
    assert sum(none.saved.values()) > sum(ffn.saved.values()) > sum(layer.saved.values())
    assert none.peak_bytes > layer.peak_bytes


def test_fit_is_the_largest_that_fits():
    limit = 20_000_000
    tokens, peak = fit(spec(small()), limit)
    larger = predict(spec(small(), tokens_per_batch=tokens + 64)).peak_bytes
    assert tokens % 64 == 0
    assert peak <= limit < larger
    assert peak == predict(spec(small(), tokens_per_batch=tokens)).peak_bytes
    assert fit(spec(small()), 1000) == (0, predict(spec(small(), tokens_per_batch=64)).peak_bytes)


def test_flash_scratch_counts_sequence_slots():
    """FlashAttention's backward keeps 128 spare rows of fp32 for every slot of cu_seqlens, used or not."""
    few, many = (
        predict(spec(small(num_hidden_layers=1), device="cuda", precision="bf16", tokens_per_batch=4096)),
        predict(spec(small(num_hidden_layers=1), device="cuda", precision="bf16", tokens_per_batch=8192)),
    )
    slots = 4096 // 32
    assert many.peak_bytes - few.peak_bytes > slots * 128 * 4 * 4 * 33  # heads x (head size rounded to 32, and a sum)


def test_products_into_fp32_copy_no_bf16_operand_on_cuda():
    """[P, V] exists once at a time, in bf16: the logits, in whose place their gradient is made."""
    config = small(vocab_size=50_000, num_hidden_layers=1)
    batch = full_batch(config, 2048, 64)
    predicted = predict(spec(config, device="cuda", precision="bf16", tokens_per_batch=2048))
    logits = len(batch.masked_lm_ids) * config.vocab_size
    assert 2 * logits <= predicted.temporaries_bytes - CUBLAS_WORKSPACE_BYTES < 2.1 * logits
