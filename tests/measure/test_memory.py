"""`albert-fast memory`: its rows as JSON and Markdown, sizes of memory as people write them, and what it refuses."""

import json
from dataclasses import replace

import pytest
from support.commands import refused
from support.memory_steps import small

from albert_fast.cli import main
from albert_fast.measure.memory import LN_TYPES, SHARE_TYPES, parse_bytes
from albert_fast.options import UserError

ROW_KEYS = {
    "share_type", "ln_type", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes",
    "temporaries_bytes", "peak_bytes", "measured_peak_bytes",
}  # fmt: skip


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
    flags = ["--tokens_per_batch=128", "--max_seq_length=64", "--measure", "--recompute", "none", "layer", "--tensors"]
    main(["memory", "--config", write_config(tmp_path), "--share_type", "all", "--ln_type", "preln", *flags])
    out = capsys.readouterr().out
    assert "| preln | all | layer |" in out
    assert "encoder.attention addmm | 3 |" in out  # queries, keys and values of every layer
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
    assert message in refused(capsys, "memory", "--config", "tiny", *flags)


def test_a_size_that_nothing_fits_is_said_in_the_table(capsys):
    flags = ["--config=tiny", "--share_type=all", "--ln_type=postln", "--tokens_per_batch=1024", "--fit=20MB"]
    main(["memory", *flags])
    told = capsys.readouterr()
    assert "| nothing fits |" in told.out
    assert "a step of one sequence of 512 tokens takes" in told.err
