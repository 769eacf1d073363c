"""The ledger of a step agrees with sums made by hand, with PyTorch's count of FLOPs, and adds up."""

import json

import pytest
import torch
from support.steps import VOCABULARY
from torch.utils.flop_counter import FlopCounterMode

from albert_fast.cli import main
from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.measure.cards import CARDS, load_card
from albert_fast.measure.ledger import Ledger, record
from albert_fast.measure.plan import plan
from albert_fast.measure.pricing import price
from albert_fast.measure.products import step_products
from albert_fast.measure.step_spec import StepSpec
from albert_fast.options import UserError

H100 = CARDS["h100"]
T, S, H, F, E, V = 1024, 128, 64, 256, 32, VOCABULARY


def spec(target: str = "cuda", tokens: int = T, dtype=torch.bfloat16, train=None, **config) -> StepSpec:
    sizes = dict(hidden_size=H, num_hidden_layers=1, num_attention_heads=4, intermediate_size=F, embedding_size=E)
    return StepSpec(
        config=AlbertConfig(**{**sizes, "vocab_size": V, **config}),
        tokens_per_batch=tokens,
        max_seq_length=S,
        train=TrainConfig(capture="off", **(train or {})),
        target=target,
        dtype=dtype,
    )


def totals(entries, *parts: str, phase: str | None = None) -> tuple[int, int, int]:
    """Bytes, FLOPs and launches of the entries whose op has every one of `parts`."""
    chosen = [e.cost for e in entries if all(p in e.op for p in parts) and phase in (None, e.phase)]
    return sum(c.bytes for c in chosen), sum(c.flops for c in chosen), sum(c.launches for c in chosen)


def test_a_layer_is_what_a_hand_sums():
    """Two layers, of which the first works for all tokens: bf16 is two bytes, main_grad fp32."""
    entries = record(spec(num_hidden_layers=2))
    batch = spec().batch()
    read = len(batch.sentence_order_weights) + len(batch.masked_lm_positions)  # the tokens of the last layer
    x, z, weight = 2 * T * H, 2 * T * F, 2 * H * F
    last_x, last_z = 2 * read * H, 2 * read * F
    # forward: x, W1, b1 -> z; z -> h; h, W2 -> x.
    library = 2 * (x + last_x + z + last_z + 2 * weight) + 2 * 2 * F
    assert totals(entries, "gelu_ffn (library)") == (library, 4 * (T + read) * H * F, 4)
    assert totals(entries, "gelu_forward_kernel") == (2 * (z + last_z), 0, 2)
    # backward: both gradients of weights read their two operands, read and write fp32 [F, H].
    gradients = totals(entries, "feed_forward", "accumulate_product")
    assert gradients == (2 * (x + last_x + z + last_z) + 4 * 2 * 4 * H * F, 4 * (T + read) * H * F, 4)
    # the first layer's q, k, v; attention: 2 products of S keys a query forward, 5 backward, in 3 launches.
    assert totals(entries, "attention", "addmm")[1] == 2 * T * H * 3 * H + 2 * T * H * 2 * H + 2 * read * H * H
    assert totals(entries, "flash_attention_forward")[1:] == (4 * (T + read) * S * H, 2)
    assert totals(entries, "flash_attention_backward")[1:] == (10 * (T + read) * S * H, 6)


def test_flops_are_those_that_pytorch_counts():
    """On the plain ops, inside which its counter sees; of attention for CPUs it does not know."""
    asked = spec("cpu", num_hidden_layers=2)
    step = asked.build_on_meta()
    # It knows addmm, but not addmm_; it hands shapes to what it is given.
    in_place = {torch.ops.aten.addmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * b[1]}
    counter, ledger = FlopCounterMode(display=False, custom_mapping=in_place), Ledger(step.model, asked.bodies())
    with torch.device("meta"), counter, ledger:
        step.micro_step()
    products = sum(e.cost.flops for e in ledger.entries if e.cost.kind == "product")
    assert products == counter.get_total_flops() > 3 * 2 * T * H * F


def test_flops_are_those_of_the_list_of_products():
    """MFU's numerator: what a step must do, the pooler and the sentence-order head left out."""
    asked = spec(num_hidden_layers=3)
    batch = asked.batch()
    slots, predictions = len(batch.sentence_order_weights), len(batch.masked_lm_positions)
    listed = step_products(asked.config, T, S, slots, predictions)
    expected = sum(product.flops for product in listed if "attention" not in product.name.split(","))
    entries = record(asked)
    heads = 3 * 2 * slots * H * (H + 2)
    done = sum(e.cost.flops for e in entries if e.cost.kind == "product")
    assert expected + heads <= done <= 1.005 * (expected + heads)  # and a sum of rows that is made by a product


@pytest.mark.parametrize("ffn", ["library", "ours"])
def test_rows_and_classes_add_up(ffn):
    priced = price(spec(num_hidden_layers=2), H100, ffn)
    document = priced.document()
    assert sum(row["seconds"] for row in document["rows"]) == pytest.approx(document["seconds"])
    assert sum(row["launches"] for row in document["rows"]) == document["launches"]
    assert sum(priced.classes.values()) == pytest.approx(document["seconds"])
    assert 0 < document["floor_seconds"] < document["seconds"]
    assert document["tokens_per_second"] * document["seconds"] == pytest.approx(T)
    assert {row["phase"] for row in document["rows"]} == {"forward", "backward", "update"}
    names = " ".join(row["op"] for row in document["rows"])
    assert ("gelu_forward_kernel" in names) == (ffn == "library")
    assert ("linear_gelu_kernel" in names) == (ffn == "ours")


def test_every_op_of_ours_states_its_cost():
    """Nothing of albert_fast is priced by the rule for PyTorch's ops."""
    from albert_fast.kernels.cost import stated

    seen = set()

    class Names(Ledger):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func not in self._bodies:
                seen.add(func._schema.name)
            return super().__torch_dispatch__(func, types, args, kwargs)

    for ln_type in ("postln", "preln"):
        asked = spec(num_hidden_layers=2, ln_type=ln_type)
        step = asked.build_on_meta()
        with torch.device("meta"), Names(step.model, asked.bodies()):
            step.micro_step()
            step.update()
    ours = {name for name in seen if name.startswith("albert_fast::")}
    assert ours
    assert ours <= stated()


def test_parts_of_the_model_are_named_in_both_directions():
    entries = record(spec(num_hidden_layers=2))
    for phase in ("forward", "backward"):
        parts = {e.op.partition(":")[0] for e in entries if e.phase == phase}
        for part in ("attention.query_key_value", "feed_forward", "embeddings", "mlm_head"):
            assert any(found.startswith(part) for found in parts), (phase, part, parts)


def test_micro_batches_repeat_all_but_the_update():
    one, three = (record(spec(train={"gradient_accumulation_steps": n})) for n in (1, 3))
    for phase, factor in (("forward", 3), ("backward", 3), ("update", 1)):
        expected = [factor * n for n in totals(one, phase=phase)]
        assert list(totals(three, phase=phase)) == expected


def test_recomputing_costs_flops():
    none, layer = (sum(e.cost.flops for e in record(spec(train={"recompute": r}))) for r in ("none", "layer"))
    assert 1.2 * none < layer < 1.4 * none


def test_rates_are_laid_over_the_cards(tmp_path):
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


def test_a_run_is_planned_with_its_all_reduce():
    priced = price(spec(), H100)
    alone, eight = (plan(priced, 1_000_000, gpus, 1e9) for gpus in (1, 8))
    assert alone.all_reduce_seconds == 0
    assert alone.hours == pytest.approx(1e9 / priced.tokens_per_second / 3600)
    assert eight.all_reduce_seconds == pytest.approx(2 * 7 / 8 * 4e6 / H100.link_bytes_per_second)
    assert eight.steps == pytest.approx(alone.steps / 8)
    assert eight.gpu_hours > alone.gpu_hours


def test_command_prints_the_json_that_is_promised(capsys):
    flags = ["--config", "tiny", "--tokens_per_batch", "1024", "--max_seq_length", "128", "--json"]
    main(["profile", "--predict", "a100", *flags])
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["card", "seconds", "tokens_per_second", "mfu", "launches", "floor_seconds", "rows"]
    assert list(document["rows"][0]) == ["phase", "op", "count", "bytes", "flops", "launches", "seconds"]
    assert document["card"] == "a100"


def test_command_prints_tables_and_a_plan(capsys):
    flags = ["--config", "tiny", "--tokens_per_batch", "1024", "--max_seq_length", "128", "--rows", "3"]
    main(["profile", "--predict", "h100", *flags, "--gpus", "8", "--tokens", "1e9"])
    out = capsys.readouterr().out
    assert "smaller rows" in out
    assert "8 h100" in out
    assert out.count("A bound: published") == 2


@pytest.mark.parametrize(("flags", "message"), [
    (["--predict", "h1000"], "predict='h1000'"), (["--predict", "h100", "--precision", "fp32"], "precision=fp32"),
    (["--predict", "h100", "--max_seq_length", "1024"], "max_position_embeddings"),
    (["--predict", "h100", "--gpus", "0"], "gpus=0"),
])  # fmt: skip
def test_command_refuses(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["profile", "--config", "tiny", *flags])
    assert message in capsys.readouterr().err
