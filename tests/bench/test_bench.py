"""The benchmarks at small sizes, and their assumptions: the baseline is the same function, the counts are right."""

import importlib
import json
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch

from albert_fast import cli
from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.data.adapters import IGNORED
from albert_fast.data.batches import PretrainingLoader
from albert_fast.flops import step_flops
from albert_fast.measure.batch import full_batch
from albert_fast.model import AlbertForPreTraining
from albert_fast.step import TrainStep
from bench import bench_pretrain, bench_quality, gpu_parts, gpu_report, harness, huggingface, machine
from bench import report as tables
from bench.corpus import synthetic_folder
from bench.shapes import Shape
from bench.timed_ops import TIMED_KERNELS

VOCABULARY = 300


def make_report(arguments):
    cli.run("report", lambda: tables.report, arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic_folder(tmp_path_factory.mktemp("corpus"), 20_000, 40, 0.8, VOCABULARY)


def small(**given) -> AlbertConfig:
    shape = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, embedding_size=8)
    return AlbertConfig(**shape, vocab_size=VOCABULARY, layout="google", **given)


def first_batches(folder, count=1):
    with PretrainingLoader(folder, tokens_per_batch=256, max_seq_length=64, seed=3) as loader:
        return list(islice(loader, count))


def both_steps(batch):
    ours, theirs = AlbertForPreTraining(small()), huggingface.build(small())
    huggingface.copy_weights(theirs, ours)
    train = TrainConfig(optimizer="adamw", learning_rate=1e-3, warmup_steps=0, max_steps=100)
    return TrainStep(ours, batch, 64, train), huggingface.PeerStep(theirs, train)


def test_padding_keeps_every_token_and_masks_only_if_needed(folder):
    (batch,) = first_batches(folder)
    padded = huggingface.pad(batch)
    assert int(padded["attention_mask"].sum()) == batch.num_tokens
    for i in range(batch.num_sequences):
        start, end = batch.cu_seqlens[i : i + 2]
        assert padded["input_ids"][i, : end - start].tolist() == batch.input_ids[start:end].tolist()
    masked = padded["labels"] != IGNORED
    assert int(masked.sum()) == batch.num_predictions
    assert padded["labels"][masked].tolist() == batch.masked_lm_ids[: batch.num_predictions].tolist()
    full = huggingface.pad(full_batch(small(), 256, 64))
    assert "attention_mask" not in full  # not needed
    assert full["input_ids"].shape == (4, 64)


def test_both_sides_train_alike(folder):
    """With the same weights, tokens and optimizer, losses agree to rounding for ten steps."""
    batches = first_batches(folder, 10)
    ours, theirs = both_steps(batches[0])
    for batch in batches:
        loss = float(theirs(huggingface.pad(batch)))
        ours([batch])
        assert ours.read_metrics()["loss"] == pytest.approx(loss, rel=2e-3)


def test_gradient_check_detects_a_difference(folder):
    (batch,) = first_batches(folder)
    ours, theirs = both_steps(batch)
    checked = bench_pretrain.check_gradients(ours, theirs, batch, "cpu")
    assert checked["largest_gradient_difference"] < 1e-4
    with torch.no_grad():
        theirs.model.albert.pooler.weight.mul_(1.05)
    with pytest.raises(SystemExit, match="HuggingFace differs"):
        bench_pretrain.check_gradients(ours, theirs, batch, "cpu")


def test_flops_of_a_step_are_six_per_weight_and_token():
    """6 FLOPs per weight use and token, plus 12 S H per token and layer for attention (as Chinchilla, appendix F)."""
    config = AlbertConfig.from_preset("base")
    tokens, length, sequences, predictions = 1024, 128, 32, 160
    every, read = (
        2 * 768 * 768,
        2 * 768 * 768 + 2 * 768 * 3072,
    )  # weights applied to all tokens; in the last layer to few
    expected = 6 * tokens * (12 * every + 11 * read + 128 * 768) + 6 * (sequences + predictions) * read
    queries = 1 + predictions // (tokens // length)  # per sequence, in the last layer
    expected += 12 * (tokens // length) * length * (11 * length + queries) * 768
    expected += 6 * predictions * (768 * 768 + 128 * config.vocab_size)
    assert step_flops(config, tokens, length, sequences, predictions) == expected


@pytest.mark.parametrize("kind", ["forward", "data", "weight"])
def test_product_shape(kind):
    assert machine.product(kind, 5, 6, 7, "cpu", torch.float32)().shape == (5, 6)


@pytest.mark.parametrize("kind", ["full", "short"])
def test_bench_pretrain_at_a_small_size_and_its_report(folder, kind, tmp_path, capsys):
    length = 32 if kind == "full" else 512
    row = {"text": kind, "preset": "small", "target": 2.5}
    row |= bench_pretrain.compare(small(), folder, 512, length, rounds=1)
    bench_pretrain.show(row)
    assert row["ratio"] > 0
    assert ("padded_share" in row) == (kind == "short")
    assert row["step_seconds"] == pytest.approx(sum(row["stages_seconds"].values()), rel=0.01)
    assert json.loads(json.dumps(row)) == row
    assert "ratio" in capsys.readouterr().out
    document = {"bench": "pretrain", "machine": machine.describe("cpu"), "rows": [row]}
    make_report([written(tmp_path / "p.json", document), "--output", str(tmp_path / "report")])
    assert f"**{row['ratio']:.2f}x**" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "p-tokens-per-second.png").exists()


def test_machine_description():
    described = machine.describe("cpu")
    assert torch.__version__.startswith(described["versions"]["torch"])  # a local version may follow: +cu130
    assert described["git"]
    assert machine.slug({"device": "AMD EPYC 9", "kind": "cpu", "threads": 2}) == "amd-epyc-9-2-threads"


def test_synthetic_lengths_are_log_normal(folder):
    from albert_fast.data.shards import read_documents

    lengths = [sum(len(s.ids) for s in document) for document in read_documents(folder)]
    assert np.median(lengths) == pytest.approx(40, rel=0.15)
    assert np.log(lengths).std() == pytest.approx(0.8, rel=0.2)


def ops_document(scale: float = 1.0) -> dict:
    rows = []
    for implementation, seconds in (("torch", 2e-3), ("ours", 1e-3 * scale)):
        times = dict(median_seconds=seconds, q1_seconds=0.9 * seconds, q3_seconds=1.1 * seconds)
        shown = dict(gb_per_second=4.0, copy_bandwidth_share=0.5, flops_per_second=1e9, matrix_rate_share=0.25)
        what = dict(op="gelu_ffn", direction="forward", implementation=implementation, preset="base", tokens=64)
        rows.append({**what, **times, **shown, "bytes": 10, "flops": 100, "host_seconds": 3e-4})
    rows.append({**rows[0], "op": "step S=128", "implementation": "huggingface", "tokens_per_second": 32_000.0})
    rates = {"copy": 8e9, "matrix": 4e9}
    return {"bench": "ops", "machine": machine.describe("cpu"), "rates": rates, "rows": rows}


def written(path, document) -> str:
    path.write_text(json.dumps(document))
    return str(path)


def test_report_writes_a_table_and_plots(tmp_path, capsys):
    file = written(tmp_path / "card.json", ops_document())
    make_report([file])
    out = capsys.readouterr().out
    row = "| gelu_ffn | forward | base | 64 | ours | 1.000 | 0.900 to 1.100 | 2.00x | 0.300 | 4.0 | 50% | 1.0 | 25% |"
    assert row in out
    make_report([file, "--output", str(tmp_path / "report")])
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.md", "card-roofline.png", "card-peers.png", "card-tokens-per-second.png"}


@pytest.mark.parametrize(("scale", "word"), [(1.0, "noise"), (1.15, "noise"), (1.5, "slower"), (0.5, "faster")])
def test_two_files_differ_only_beyond_noise(tmp_path, capsys, scale, word):
    files = [written(tmp_path / "a.json", ops_document()), written(tmp_path / "b.json", ops_document(scale))]
    make_report([*files, "--output", str(tmp_path / "report")])
    report = (tmp_path / "report" / "report.md").read_text()
    assert f"{1 / scale:.2f}x | {word} |" in report
    assert (tmp_path / "report" / "a-against-b.png").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"bench": "other"}', None])
def test_report_refuses_other_files(tmp_path, capsys, content):
    file = tmp_path / "x.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        make_report([str(file)])
    assert "x.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*TIMED_KERNELS, "attention"])
def test_op_benches_check_the_result(name):
    """Ours against eager torch; torch.compile is slow to start and checked whenever it is timed."""
    module = importlib.import_module(f"bench.bench_{name}")
    shape = Shape("small", 96, 24, 40, 3)
    cases = [module.case(shape, 32, mixed) for mixed in (False, True)] if name == "attention" else [module.case(shape)]
    for case in cases:
        assert case.check("ours") < 1e-4
        case.implementations["ours"] = lambda inner=case.implementations["ours"], **inputs: 1.01 * inner(**inputs)
        with pytest.raises(AssertionError, match="is off by"):
            case.check("ours")


class DeviceClock:
    """Replays take 2 ms each on the device, independently of the host."""

    prepared = 0

    def prepare(self, run):
        self.prepared += 1
        run()
        return lambda: 2e-3


@pytest.fixture
def layer_norm_case(monkeypatch):
    monkeypatch.setattr(harness, "rates", lambda: {"copy": 1e9, "matrix": 1e9})
    return importlib.import_module("bench.bench_add_layer_norm").case(Shape("small", 96, 24, 40, 3))


@pytest.mark.parametrize("direction", harness.DIRECTIONS)
def test_on_a_gpu_replays_and_host_time_are_measured(direction, layer_norm_case, monkeypatch):
    clock, timer = DeviceClock(), gpu_parts.Timer()
    monkeypatch.setattr(harness, "device_clock", lambda: clock)
    harness.measure(timer, layer_norm_case, "ours", direction)
    row = timer.row()
    assert clock.prepared == 1
    assert row["median_seconds"] == pytest.approx(2e-3)
    assert row["gb_per_second"] == pytest.approx(row["bytes"] / 2e-3 / 1e9)
    assert 0 < row["host_seconds"] < 2
    assert harness.stopwatch() > 1.0  # host time again


def test_on_a_cpu_calls_are_timed(layer_norm_case):
    timer = gpu_parts.Timer(4)
    harness.measure(timer, layer_norm_case, "ours", "forward")
    assert "host_seconds" not in timer.row()
    assert timer.row()["median_seconds"] > 0
    low, median, high = timer.row()["against_eager"]  # over pairs of calls
    assert 0 < low <= median <= high


def test_an_update_is_timed_after_its_gradients_are_complete(monkeypatch):
    module, calls = importlib.import_module("bench.bench_optimizer"), []
    build = module.build

    def noted(*arguments):
        prepare, update, weights = build(*arguments)
        return lambda: (calls.append("prepare"), prepare()), lambda: (calls.append("update"), update()), weights

    monkeypatch.setattr(module, "build", noted)
    monkeypatch.setattr(machine, "synchronize", lambda: calls.append("wait"))
    monkeypatch.setattr(harness, "rates", lambda: {"copy": 1e9})
    module.test_optimizer(gpu_parts.Timer(1), "tiny", "all", "ours-lamb")
    assert calls[-4:] == ["prepare", "wait", "update", "wait"]


def test_host_time_runs_without_a_gpu():
    command = [sys.executable, "-m", "bench.host_time", "--json", "--rounds", "1"]
    rows = {row.pop("op"): row for row in json.loads(subprocess.check_output(command, cwd=machine.ROOT))}
    assert {"add_post_layer_norm", "gelu_ffn", "linear_cross_entropy"} <= rows.keys()
    assert all(row["forward"] > 0 and row["forward+backward"] > 0 for row in rows.values())


def test_traffic_registers_the_kernels_that_it_counts():
    """In a fresh process; in this one, other tests have imported every kernel."""
    rows = "traffic.layer_norm_rows(shapes.SHAPES[0], torch.float32, 0.0, False)"
    program = f"import torch; from bench import traffic, shapes; print(len({rows}))"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=machine.ROOT, text=True) == "2\n"


def test_quality_curves_of_both_sides_agree(tmp_path):
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, embedding_size=16)
    document = bench_quality.run(6, 3, 128, 300, **size)
    assert document["largest_difference_from_huggingface"] < 1e-3
    assert set(document["long_curves"]) == set(bench_quality.RUNS)
    assert document["long_curves"]["preln"] != document["long_curves"]["postln"]
    bench_quality.plot(document, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").exists()


def gpu_report_run(folder, *flags) -> dict:
    gpu_report.main(["--output", str(folder), *flags])
    return json.loads((folder / "report.json").read_text())


def test_gpu_report_continues_after_a_failed_part(tmp_path):
    """The part `rates` first hits its time limit; the second run repeats only that part."""
    gpu_report_run(tmp_path, "--dry-run", "--parts", "tests")
    cut = gpu_report_run(tmp_path, "--dry-run", "--parts", "tests", "rates", "--limit", "0.2")
    assert "left_out" in cut["parts"]["tests"]
    assert "took more than" in cut["parts"]["rates"]["error"]
    report = gpu_report_run(tmp_path, "--dry-run", "--parts", "tests", "rates", "add_layer_norm")
    assert report["parts"]["tests"] == cut["parts"]["tests"]
    assert report["parts"]["rates"]["copy"] > 0
    rows = report["parts"]["add_layer_norm"]["rows"]
    assert {row["implementation"] for row in rows} >= {"torch", "ours"}
    assert report["parts"]["add_layer_norm"]["failed"] == []
    assert "| add_layer_norm | forward | tiny |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "gpu-peers.png").exists()


def test_gpu_report_saves_every_row():
    kept: list[int] = []
    found = gpu_parts.part_op("add_layer_norm", True, lambda found: kept.append(len(found["rows"])), {})
    rows = found["rows"]
    assert kept == list(range(1, len(rows) + 1))
    kept.clear()
    earlier = {"rows": rows[:-1], "failed": []}
    again = gpu_parts.part_op("add_layer_norm", True, lambda found: kept.append(len(found["rows"])), earlier)
    assert kept == [len(rows)]  # only the missing row is made
    assert again["rows"][:-1] == rows[:-1]


def test_gpu_report_continues_interrupted_pretraining(monkeypatch):
    compared, kept = [], []

    def compare(config, folder, *_):
        compared.append(folder.name)
        return {}

    monkeypatch.setattr(bench_pretrain, "compare", compare)
    monkeypatch.setattr(bench_pretrain, "show", lambda row: None)
    monkeypatch.setattr(bench_pretrain, "folders", lambda root, _: {kind: root / kind for kind in ("full", "short")})
    first = {"text": "full", "preset": "base", "target": 1.2}
    document = gpu_parts.part_pretrain(False, lambda found: kept.append(len(found["rows"])), {"rows": [first]})
    assert (compared, kept) == (["short"], [2])
    assert document["rows"][0] == first
    assert document["rows"][1]["text"] == "short"


@pytest.mark.slow
def test_whole_gpu_report_as_a_dry_run(tmp_path):
    parts = gpu_report_run(tmp_path, "--dry-run")["parts"]
    assert set(parts) == set(gpu_parts.PARTS)
    assert {name: part for name, part in parts.items() if "error" in part or part.get("failed")} == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_gpu_report_needs_a_gpu():
    with pytest.raises(SystemExit, match="use --dry-run"):
        gpu_report.main([])
