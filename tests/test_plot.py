"""Pretraining and fine-tuning runs in one PNG; folders without metrics and unknown formats are named."""

import pytest
from PIL import Image

from albert_fast.cli import main
from albert_fast.metrics import MetricsLog
from albert_fast.options import UserError
from albert_fast.plot import PlotOptions, plot


def test_pretraining_and_fine_tuning_runs_in_one_file(tmp_path, capsys):
    for name, values in (("first", dict(mlm_loss=2.0, mlm_accuracy=0.1)), ("second", dict(dev_accuracy=0.5))):
        (tmp_path / name).mkdir()
        with MetricsLog(tmp_path / name, 9, board=False) as log:
            for step in range(1, 5):
                values = {**values, "learning_rate": step / 10, "loss": float("nan") if step == 2 else 3.0}
                log.write(step, log.timed({**values, "tokens": 10}))
    output = tmp_path / "runs.png"
    main(["plot", str(tmp_path / "first"), str(tmp_path / "second"), f"--output={output}"])
    assert str(output) in capsys.readouterr().out
    with Image.open(output) as image:
        assert image.size[0] > 1000
        assert len(image.convert("RGB").getcolors(10**7)) > 10


def test_a_folder_without_metrics_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no metrics.jsonl"):
        plot(PlotOptions(runs=(str(tmp_path),), output=str(tmp_path / "a.png")))


def test_an_unknown_suffix_is_named(tmp_path):
    with MetricsLog(tmp_path, 9, board=False) as log:
        log.write(1, {"loss": 1.0})
    with pytest.raises(UserError, match=r"a.foo: .foo is not a figure format; use one of .*png"):
        plot(PlotOptions(runs=(str(tmp_path),), output=str(tmp_path / "a.foo")))
