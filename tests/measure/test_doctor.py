"""The doctor on a machine without a card: what is there is checked, what is not is said, what is wrong is named."""

import json

import pytest
import torch
from support.commands import refused

from albert_fast.cli import main
from albert_fast.kernels.candidates import Problem
from albert_fast.measure import doctor
from albert_fast.ops import Ops
from albert_fast.tuning.choose import Outcome

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a card")


def test_what_is_here_is_right_and_what_is_not_is_said(capsys):
    main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    states = {check["name"]: check["ok"] for check in report["checks"]}
    assert report["wrong"] == []
    assert states["extension"] is states["varlen_attention in float32"] is states["gelu_ffn in float32"] is True
    assert {name for name, ok in states.items() if ok is None} == {"kernels", "implementations", "capture"}
    assert report["machine"]["torch"] == torch.__version__


def test_a_config_that_is_none_is_refused_without_a_card_too(capsys):
    assert "nope" in refused(capsys, "doctor", "--config", "nope")


def test_what_is_wrong_is_named_and_ends_in_code_1(capsys, monkeypatch):
    right = Ops.gelu_ffn

    def first_row_lost(x, *rest, **keywords):  # by this machine's library, not by the reference in fp64
        kept = torch.arange(len(x)) >= (x.dtype != torch.float64)
        return right(x, *rest, **keywords) * kept[:, None]

    monkeypatch.setattr(Ops, "gelu_ffn", staticmethod(first_row_lost))
    with pytest.raises(SystemExit) as ending:
        main(["doctor", "--precision", "bf16"])
    assert ending.value.code == 1
    said = capsys.readouterr().out
    assert "WRONG        gelu_ffn in bfloat16: output 0: off by" in said
    assert said.strip().endswith("wrong: gelu_ffn in float32, gelu_ffn in bfloat16")


def test_a_row_of_timings_has_rates_and_shares():
    problem = Problem("gelu_ffn_forward", "sm_90", "bfloat16", 16384, 3072, 768)
    row = doctor._row(Outcome(problem, "library", {"library": 1e-3}), (3e12, 600e12))
    assert row["timings"]["library"] == {
        "milliseconds": 1.0,
        "TFLOP/s": pytest.approx(4 * 16384 * 3072 * 768 / 1e9),
        "share": pytest.approx(4 * 16384 * 3072 * 768 / 1e-3 / 600e12),
    }
    report = {"machine": {"driver": ""}, "checks": [], "implementations": [row], "wrong": []}
    assert "library" in doctor.text(report)
    assert "  driver: none\n" in doctor.text(report)


def test_an_extension_for_another_processor_is_named(monkeypatch):
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    assert doctor._extension()["ok"] is False
