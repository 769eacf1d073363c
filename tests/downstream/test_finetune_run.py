"""A fine-tuning run resumes bitwise identically, and only with its own data and settings."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from support.crashes import finish, kill, launch
from support.finetuning import options, run
from support.pretraining import wait_for_step

from albert_fast.downstream.columns import ColumnOptions
from albert_fast.downstream.finetune import finetune
from albert_fast.downstream.finetune_options import FinetuneOptions
from albert_fast.downstream.finetune_run import FinetuneRun
from albert_fast.files import locked
from albert_fast.health import RunFailure
from albert_fast.metrics import read_metrics
from albert_fast.options import DeviceOptions, UserError


def comparable(output: Path) -> tuple[Any, ...]:
    lines = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_metrics(output)]
    return (output / "model.safetensors").read_bytes(), (output / "dev_predictions.jsonl").read_bytes(), lines


def stopped_at(method: str, given: FinetuneOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until this method of FinetuneRun is called."""

    def stop(*_: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, method, stop)
        with pytest.raises(KeyboardInterrupt):
            run(given)


def test_killed_and_resumed_it_is_bitwise_identical(pretrained: Path) -> None:
    given = options(pretrained, hidden_dropout_prob=0.1, logging_steps=5)
    whole = run(given)
    stopped = replace(given, output=str(pretrained.parent / "stopped"))
    processes = launch(run, stopped)
    wait_for_step(Path(stopped.output), 7)  # as logged: in the second epoch, between two saved states
    kill(processes, signal.SIGKILL)
    assert finish(processes) == [-signal.SIGKILL], "it ended before it could be killed"
    assert (Path(stopped.output) / "training_state.safetensors").exists()
    with pytest.raises(UserError, match=r"holds files already; give --resume"):
        run(stopped)
    with pytest.raises(UserError, match=r"learning_rate=0.5 differs from the run's 0.003"):
        run(replace(stopped, resume=True, learning_rate=0.5))
    run(replace(stopped, resume=True))
    for before, after in zip(comparable(whole), comparable(Path(stopped.output)), strict=True):
        assert before == after
    with pytest.raises(UserError, match="is complete"):
        run(replace(stopped, resume=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_saves_and_tells_how_to_resume(
    number: signal.Signals, pretrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At step 12, between two saved states and two log lines; every file equals that of an uninterrupted run."""
    given = options(pretrained, epochs=2, logging_steps=5, hidden_dropout_prob=0.1)
    whole = run(replace(given, output=str(pretrained.parent / "whole")))
    capsys.readouterr()
    advance = FinetuneRun.advance

    def interrupted(self: FinetuneRun, *arguments: Any) -> None:
        advance(self, *arguments)
        if self.step == 12:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "advance", interrupted)
        run(given)
    said = capsys.readouterr()
    assert f"step 12: stopped by {number.name}; resume with --resume" in said.out
    assert "nothing was learned" not in said.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = run(replace(given, resume=True))
    assert "at step 12" in capsys.readouterr().err
    for before, after in zip(comparable(whole), comparable(again), strict=True):
        assert before == after


def test_moved_files_can_be_resumed(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and model are compared by content, so they may be at another path."""
    given = options(pretrained, epochs=1)
    stopped_at("evaluated", given, monkeypatch)
    moved = pretrained.parent / "moved"
    moved.mkdir()
    changes = {}
    for name in ("model", "train", "dev"):
        changes[name] = str(Path(getattr(given, name)).rename(moved / name))
    output = run(replace(given, resume=True, **changes))
    assert (output / "dev_predictions.jsonl").exists()


def test_resumed_before_the_first_log_line(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that stopped right after its start can be resumed like any other."""
    given = options(pretrained, epochs=1)
    whole = run(replace(given, output=str(pretrained.parent / "whole")))
    stopped_at("advance", given, monkeypatch)
    for before, after in zip(comparable(whole), comparable(run(replace(given, resume=True))), strict=True):
        assert before == after


def test_resuming_needs_the_same_labels_and_precision(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = options(pretrained)
    stopped_at("evaluated", given, monkeypatch)
    again = options(pretrained, resume=True)
    with pytest.raises(UserError, match="precision=bfloat16 differs from the run's float32"):
        finetune(again, ColumnOptions(), DeviceOptions(device="cpu", precision="bf16"))
    with locked(Path(given.output), "checkpoints"), pytest.raises(UserError, match="another run is writing"):
        run(again)
    train = Path(given.train)
    text = train.read_text()
    train.write_text(text.replace("is yes", "is x").replace("is no", "is yes").replace("is x", "is no"))
    with pytest.raises(UserError, match=r"train=\S+ holds other examples, or --dev does, than the run's"):
        run(again)
    train.write_text(text)
    run(again)


def test_an_unusable_output_is_refused_before_the_examples_are_read(pretrained: Path) -> None:
    given = options(pretrained, train="absent.tsv")
    (pretrained.parent / "file").write_text("")
    for output, resume, message in (
        ("model", False, "holds files already; give --resume"),
        ("model", True, "holds no run to resume"),
        ("file", False, "could not be written: Not a directory"),
        ("file/below", False, "could not be written: Not a directory"),
    ):
        with pytest.raises(UserError, match=message):
            run(replace(given, output=str(pretrained.parent / output), resume=resume))
    with pytest.raises(UserError, match=r"absent\.tsv"):
        run(replace(given, output=str(pretrained.parent / "new" / "run")))
    assert not (pretrained.parent / "new").exists()


@pytest.mark.parametrize("rate", [1e20, 1e39])
def test_a_run_that_diverges_between_log_lines_ends_with_exit_code_3(pretrained: Path, rate: float) -> None:
    """The run has fewer steps than MAX_SKIPPED and than one log line."""
    given = options(pretrained, epochs=1, learning_rate=rate, logging_steps=1000)
    with pytest.raises(
        RunFailure, match=r"step 19: the loss on --dev is nan, with \d+ of 19 updates skipped.*lower --learn"
    ):
        run(given)
    assert not (Path(given.output) / "model.safetensors").exists()


def test_a_damaged_or_non_finite_state_is_refused(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = options(pretrained)
    stopped_at("evaluated", given, monkeypatch)
    state = Path(given.output) / "training_state.safetensors"
    with safe_open(state, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, state, {**metadata, "progress": "{}"})
    with pytest.raises(UserError, match=r"training_state\.safetensors is damaged"):
        run(replace(given, resume=True))
    tensors["weight.classifier.bias"][0] = float("nan")
    save_file(tensors, state, metadata)
    with pytest.raises(UserError, match=r"holds numbers that are not finite, in weight\.classifier\.bias"):
        run(replace(given, resume=True))
