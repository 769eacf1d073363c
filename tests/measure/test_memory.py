"""Predicted memory adds up, agrees with hand counts and with what real steps take, and never misses a storage."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from albert_fast.cli import main
from albert_fast.config import AlbertConfig
from albert_fast.measure.allocator import measure
from albert_fast.measure.batch import full_batch
from albert_fast.measure.memory import LN_TYPES, SHARE_TYPES, MemoryOptions, parse_bytes
from albert_fast.measure.predict import CUBLAS_WORKSPACE_BYTES, fit, predict
from albert_fast.measure.step_spec import StepSpec
from albert_fast.measure.storage_tracker import StorageTracker
from albert_fast.ops import linear_cross_entropy
from albert_fast.options import UserError

ROW_KEYS = {
    "share_type", "ln_type", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes",
    "temporaries_bytes", "peak_bytes", "measured_peak_bytes",
}  # fmt: skip


def spec(config: AlbertConfig, recompute: str = "none", **given) -> StepSpec:
    options = MemoryOptions(**{"tokens_per_batch": 256, "max_seq_length": 64, "device": "cpu", **given})
    return options.spec(config, recompute)


def small(**given) -> AlbertConfig:
    shape = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, embedding_size=16)
    return AlbertConfig(**{**shape, "vocab_size": 500, **given})


@pytest.mark.parametrize("ln_type", LN_TYPES)
@pytest.mark.parametrize("share_type", SHARE_TYPES)
def test_prediction_is_what_the_cpu_allocator_sees(share_type, ln_type):
    config = small(share_type=share_type, ln_type=ln_type)
    predicted, measured = predict(spec(config)), measure(spec(config))
    assert predicted.peak_bytes == pytest.approx(measured["peak_bytes"], rel=0.05)
    static = predicted.parameters_bytes + predicted.gradients_bytes + predicted.optimizer_bytes
    assert static == pytest.approx(measured["static_bytes"], rel=0.02)
    assert measured["high_water_mark_bytes"] > measured["peak_bytes"]


@pytest.mark.parametrize("given", [
    dict(recompute="ffn"), dict(recompute="layer"), dict(precision="bf16"), dict(optimizer="adamw"),
    dict(layout="google"), dict(hidden_dropout_prob=0.1), dict(max_seq_length=48), dict(tokens_per_batch=16),
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


def test_batch_has_the_loaders_capacities():
    batch = full_batch(small(), 2048, 128)
    assert batch.cu_seqlens.shape == (64 + 14 + 1,)  # T / 32 examples, and padding where each of them is the shortest
    assert batch.cu_seqlens[16] == batch.cu_seqlens[-1] == 2048
    assert batch.masked_lm_positions.shape == (320,)  # ceil(2048 * .15) + 4, in sixteens


@pytest.mark.parametrize("length", [5, 16, 17, 512])
def test_batch_is_full_and_has_room_at_any_length(length):
    batch = full_batch(small(), 1024, length)
    assert batch.cu_seqlens[-1] == 1024
    assert batch.num_sequences == 1024 // length == batch.sentence_order_weights.sum()


@pytest.mark.parametrize(("text", "size"), [
    ("80GB", 80 * 10**9), ("40GiB", 40 * 2**30), ("1.5 MB", 1_500_000), ("10000000000", 10**10)
])  # fmt: skip
def test_parse_bytes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "12 parsecs", "1.2.3GB", "-4GB", "12", "900KB"])
def test_parse_bytes_refuses(text):
    with pytest.raises(UserError, match="80GB"):
        parse_bytes(text)


def write_config(folder, **given):
    (folder / "config.json").write_text(json.dumps(replace(small(), **given).to_dict()))
    return str(folder / "config.json")


def test_command_prints_json_rows(tmp_path, capsys):
    png = tmp_path / "memory.png"
    flags = ["--tokens_per_batch", "256", "--max-seq-length", "64", "--json", "--png", str(png)]
    main(["memory", "--config", write_config(tmp_path), *flags])
    document = json.loads(capsys.readouterr().out)
    rows = document["rows"]
    assert {(row["share_type"], row["ln_type"]) for row in rows} == {(s, n) for s in SHARE_TYPES for n in LN_TYPES}
    assert all(row.keys() == ROW_KEYS and row["measured_peak_bytes"] is None for row in rows)
    assert png.read_bytes().startswith(b"\x89PNG")


def test_command_measures_and_prints_markdown(tmp_path, capsys):
    flags = [
        "--tokens_per_batch",
        "128",
        "--max_seq_length",
        "64",
        "--measure",
        "--recompute",
        "none",
        "layer",
        "--tensors",
    ]
    main(["memory", "--config", write_config(tmp_path), "--share_type", "all", "--ln_type", "preln", *flags])
    out = capsys.readouterr().out
    assert "| preln | all | layer |" in out
    assert "query_key_value addmm | 3 |" in out
    differences = [cell for cell in out.split("|") if cell.strip().endswith("%") and cell.strip()[0] in "+-"]
    assert len(differences) == 2
    assert all(abs(float(cell.strip(" %"))) <= 5 for cell in differences)


@pytest.mark.parametrize(("flags", "message"), [
    (["--tokens_per_batch", "100", "--max_seq_length", "128"], "tokens_per_batch=100"),
    (["--max_seq_length", "1024"], "max_position_embeddings"),
    (["--recompute", "some"], "recompute='some'"),
    (["--fit", "much"], "fit='much'"),
])  # fmt: skip
def test_command_refuses(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["memory", "--config", "tiny", *flags])
    assert message in capsys.readouterr().err


def test_predicting_for_cuda_needs_neither_a_gpu_nor_the_interpreter():
    """In a process that has imported Triton without TRITON_INTERPRET, as one that has trained has."""
    code = (
        "import triton; from albert_fast.cli import main; "
        "main(['memory', '--config=tiny', '--share_type=all', '--ln_type=postln', '--tokens_per_batch=1024'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)


def test_a_size_that_nothing_fits_is_said_in_the_table(capsys):
    flags = ["--config=tiny", "--share_type=all", "--ln_type=postln", "--tokens_per_batch=1024", "--fit=20MB"]
    main(["memory", *flags])
    told = capsys.readouterr()
    assert "| nothing fits |" in told.out
    assert "a step of one sequence of 512 tokens takes" in told.err
