"""Log lines without a terminal, as strict JSON, after a crash and on a full disk."""

import json
import math

import pytest

from albert_fast.metrics import METRICS, MetricsLog, read_metrics
from albert_fast.options import UserError

LINE = dict(loss=2.0, mlm_loss=1.5, sop_loss=0.5, learning_rate=1e-3)


def test_plain_lines_without_a_terminal(tmp_path, capfd):
    with MetricsLog(tmp_path, 400, board=False) as log:
        log.advance(20)
        log.write(20, log.timed({**LINE, "tokens": 1000}))
        shown = capfd.readouterr().err  # flushed before the end
        log.advance(40)
        log.write(40, {"dev_accuracy": 0.5, "epoch": 1})
    assert shown.startswith("step 20 of 400  loss 2.000  mlm 1.500  sop 0.500  rate 0.001")
    assert "tokens/s" in shown
    assert shown.rstrip().endswith("left")
    assert [line["step"] for line in read_metrics(tmp_path)] == [20, 40]


def test_nan_is_null_in_the_file(tmp_path):
    with MetricsLog(tmp_path, 10, board=False) as log:
        log.write(1, {**LINE, "loss": math.nan, "gradient_norm": math.inf, "trust_ratio": {"a.weight": math.nan}})
    text = (tmp_path / METRICS).read_text()
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in a JSON document"))
    assert (line["loss"], line["gradient_norm"], line["trust_ratio"]) == (None, None, {"a.weight": None})


def test_resuming_drops_later_and_truncated_lines_and_continues_tokens_seen(tmp_path):
    with MetricsLog(tmp_path, 10, board=False) as log:
        for step in (1, 2, 3):
            log.write(step, log.timed({**LINE, "tokens": 100}))
    with (tmp_path / METRICS).open("a") as stream:
        stream.write('{"step": 4, "trust_ratio": {"a": 1}')  # as a crash leaves it
    with MetricsLog(tmp_path, 10, 2, board=False) as log:
        log.write(3, log.timed({**LINE, "tokens": 50}))
    assert [(line["step"], line["tokens_seen"]) for line in read_metrics(tmp_path)] == [(1, 100), (2, 200), (3, 250)]


@pytest.mark.parametrize("bad", [b"\0\0\0", b"\xff", b"null", b"[]", b'{"loss": 1}', b'{"step": 2, "lo'])
def test_a_damaged_line_is_named(bad, tmp_path):
    (tmp_path / METRICS).write_bytes(b'{"step": 1}\n' + bad + b'\n{"step": 3}\n')
    for read in (read_metrics, lambda run: MetricsLog(run, 10, 3, board=False)):
        with pytest.raises(UserError, match=r"metrics.jsonl, line 2: is not a line of metrics; remove it"):
            read(tmp_path)


def test_a_full_disk_is_named(tmp_path):
    with MetricsLog(tmp_path, 10, board=False) as log:
        (tmp_path / METRICS).unlink()
        (tmp_path / METRICS).symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"metrics.jsonl could not be written: No space left.*--resume"):
            log.write(1, LINE)
