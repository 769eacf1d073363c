"""The choice of a run: remembered, taken from its checkpoint, agreed on by all ranks; the clock is injected."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.crashes import finish, launch
from support.steps import make_step

from albert_fast.kernels import candidates
from albert_fast.step import TrainStep
from albert_fast.tuning import cache, choose
from albert_fast.tuning import run as tuning
from albert_fast.tuning.choose import key

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted")
SHAPE = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
OP = "gelu_ffn_forward"


class Clock:
    """A clock on which candidate number `fastest` takes half of what the others take."""

    def __init__(self, fastest: int):
        self.fastest, self.time, self.prepared = fastest, 0.0, 0

    def now(self) -> float:
        self.time += 1e-3
        return self.time

    def prepare(self, run):
        self.prepared += 1
        number = (self.prepared - 1) % 3  # the library and two tiles
        return lambda: 0.5 if number == self.fastest else 1.0


def tune(fastest=1, mode: str = "auto", saved: dict | None = None, seconds: float = 60.0, rank=0, world_size=1):
    """The choice, and the clock that was asked or not; of the feed-forward's product alone."""
    clock, made = Clock(fastest), []
    with pytest.MonkeyPatch.context() as patch, candidates.running({}):
        problems = tuning.problems_of
        patch.setattr(tuning, "problems_of", lambda step: [p for p in problems(step) if p.op == OP][:1])
        patch.setattr(choose, "ROUNDS", 1)
        patch.setattr(choose, "RAGGED_ROWS", 3)
        patch.setattr(choose, "candidates_of", lambda problem: candidates.candidates_of(problem)[:3])

        def before_capture(step: TrainStep) -> None:
            made.append(tuning.tune_step(step, mode, seconds, saved or {}, clock, lambda problem: 3))

        step = make_step(torch.bfloat16, ops="triton", among=(rank, world_size, before_capture), **SHAPE)
        problem = tuning.problems_of(step)[0]
        running = candidates.chosen(problem).name
    assert made[0].get(key(problem), running) == running
    return made[0], clock, problem


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_choice_is_made_once_said_in_two_lines_and_remembered(capsys, tmp_path):
    choice, clock, problem = tune(fastest=1)
    names = [candidate.name for candidate in candidates.candidates_of(problem)]
    assert (choice, clock.prepared) == ({key(problem): names[1]}, 3)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert f"{OP} {names[1]}" in said[1]
    (file,) = (tmp_path / "albert_fast").glob("*.json")
    document = json.loads(file.read_text())
    assert document["for"].keys() == {"card", "driver", "torch", "triton", "kernels"}
    assert document["median_seconds"][key(problem)][names[1]] == 0.5
    again, clock, _ = tune(fastest=2)
    assert (again, clock.prepared) == (choice, 0)
    anew, clock, _ = tune(fastest=2, mode="again")
    assert (anew, clock.prepared) == ({key(problem): names[2]}, 3)


def test_what_is_damaged_or_of_other_kernels_is_made_anew(capsys, tmp_path, monkeypatch):
    choice, *_ = tune(fastest=1)
    (file,) = (tmp_path / "albert_fast").glob("*.json")
    file.write_text(file.read_text().replace("0.5", "0.1"))
    anew, clock, _ = tune(fastest=2)
    assert anew != choice
    assert clock.prepared == 3
    assert "is damaged" in capsys.readouterr().err
    file.write_text("{")
    assert cache.load(cache.card(torch.device("cpu"))) == {}
    monkeypatch.setattr(cache, "kernels_hash", lambda: "of another source")
    _, clock, _ = tune(fastest=2)
    assert clock.prepared == 3


def test_off_and_a_budget_of_nothing_keep_the_defaults():
    for options in (dict(mode="off"), dict(seconds=0.0)):
        choice, clock, _ = tune(**options)
        assert (choice, clock.prepared) == ({}, 0)


def test_a_resumed_run_takes_what_its_checkpoint_says(capsys):
    choice, *_ = tune(fastest=1)
    for mode in ("auto", "off"):
        resumed, clock, problem = tune(fastest=2, mode=mode, saved=choice)
        assert (resumed, clock.prepared) == (choice, 0)
    capsys.readouterr()
    _, clock, _ = tune(fastest=1, saved={key(problem): "a tile of another card"})
    assert "are not on cpu" in capsys.readouterr().err
    tune(fastest=1, saved={"a problem of before": "of which this version knows nothing"})  # and the others are new
    assert "are not on cpu" not in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_note(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    choice, *_ = tune(fastest=1)
    assert choice
    assert "could not be written" in capsys.readouterr().err


def choose_as_a_rank(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    choice, clock, _ = tune(fastest=1 + rank, rank=rank, world_size=2)
    (folder / f"{rank}.json").write_text(json.dumps([clock.prepared, choice]))
    dist.destroy_process_group()


def test_rank_0_chooses_for_all(tmp_path):
    assert finish(launch(choose_as_a_rank, tmp_path, ranks=2)) == [0, 0]
    (asked, choice), (not_asked, same) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (asked, not_asked) == (3, 0)
    assert choice == same != {}
