"""The host side of a captured run, over a stand-in for CUDA's: what is ordered, what waits, what outlives what."""

import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from support.cuda_host import Fault, cuda_host
from support.gates import slow
from support.steps import bits, make_batch, make_step, same

import albert_fast.capture
from albert_fast import checkpoint, step
from albert_fast.inputs import Inputs
from albert_fast.options import UserError
from albert_fast.step import TrainStep


def train(host, steps: int, folder: Path, every: int = 8, capture: str = "on") -> TrainStep:
    """Steps, and every few of them what a run does between steps, under the rules that hold for each."""
    trained = make_step(train=dict(capture=capture))
    state = {host.memory(tensor).name for tensor in trained.mutable_tensors()}
    sums = {host.memory(trained.sums).name}
    for index in range(steps):
        host.waits.clear()
        trained([make_batch(index)])
        # The host may wait for a copy of RING batches ago, of which it refills the pinned buffer; for nothing else.
        host.faults += [f"a step waits: {what}" for what in host.waits if what != "event"]
        if index % every:
            continue
        for what, allowed in (
            (lambda: trained.evaluate([make_batch(100)]), set()),
            (trained.read_metrics, sums),
            (lambda index=index: checkpoint.save(folder, index, trained, {"cursor": {}}, folder, 1), set()),
        ):
            host.written.clear()
            what()
            host.faults += [f"training state is written between steps: {n}" for n in host.written & state - allowed]
    return trained


def test_twenty_steps_are_ordered_and_replays_have_the_bits_of_the_eager_run(monkeypatch, tmp_path):
    with cuda_host(monkeypatch) as host:
        assert len(train(host, 20, tmp_path).graphs) == 2
        captured, eager = (bits(train(host, 4, tmp_path, 2, capture)) for capture in ("on", "off"))
    assert host.faults == []
    assert same(captured, eager)


def test_the_stand_in_waits_where_cuda_does(monkeypatch):
    with cuda_host(monkeypatch) as host:
        x = torch.ones(3)
        for look in (lambda: float(x[0]), x.tolist, x.cpu, lambda: bool((x > 0).all()), torch.cuda.synchronize):
            host.waits.clear()
            look()
            assert len(host.waits) == 1


def plant(monkeypatch, owner, name: str, line: str, fault: str) -> None:
    """Put `fault` in place of `line` in a function's source."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(line) == 1, f"{line!r} is not in {name}"
    made: dict = {}
    exec(source.replace(line, fault), inspect.unwrap(function).__globals__, made)
    monkeypatch.setattr(owner, name, made[name])


FAULTS = {
    "first filling": (Inputs, "__init__", "self.stream.wait_stream(torch.cuda.current_stream(device))", "pass", "race"),
    "refilled early": (Inputs, "load", "self.copied[slot].synchronize()", "pass", "race"),
    "staged early": (Inputs, "load", "self.stream.wait_event(self.taken[slot])", "pass", "race"),
    "not landed": (Inputs, "load", "torch.cuda.current_stream().wait_event(self.copied[slot])", "pass", "race"),
    "warm-up too early": (
        albert_fast.capture, "capture", "stream.wait_stream(torch.cuda.current_stream())", "pass", "race",
    ),
    "a look in a step": (TrainStep, "__call__", "self.run_update()", "self.run_update(), float(self.sums[0])", "waits"),
    "evaluation counts": (TrainStep, "evaluate", "self.inputs.load(batch)", "self.sums += 1", "state is written"),
    "metrics moved": (TrainStep, "read_metrics", "self.sums.zero_()", "self.sums = self.sums * 0", "freed"),
    "warm-up kept": (TrainStep, "micro_step", "losses.loss.backward()", "losses.loss.backward(); self.k = losses.loss",
                     "alive at capture"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_caught(name, monkeypatch, tmp_path):
    owner, function, line, fault, caught = FAULTS[name]
    plant(monkeypatch, owner, function, line, fault)
    monkeypatch.setattr(step, "capture", albert_fast.capture.capture)
    with cuda_host(monkeypatch) as host:
        try:
            # A capture waits for everything once, and hides what goes wrong before it.
            train(host, 5, tmp_path, 4, "off" if name == "first filling" else "on")
        except Fault as error:
            host.faults.append(str(error))
    assert any(caught in line for line in host.faults), host.faults


def test_a_look_during_capture_is_named(monkeypatch):
    plant(monkeypatch, TrainStep, "micro_step", "self.sums[5].add_(1)", "self.sums[5].add_(int(self.sums[5] >= 0))")
    with cuda_host(monkeypatch), pytest.raises(UserError, match=r"at aten._local_scalar_dense.*not permitted"):
        make_step(train=dict(capture="on"))


@pytest.mark.parametrize("fail_at", [0, 150, slow(40), slow(260), -1])
def test_a_failed_capture_leaves_no_trace(fail_at, monkeypatch):
    with cuda_host(monkeypatch, fail_at) as host:
        with pytest.warns(UserWarning, match="planted failure; use --capture off. Going on eagerly"):
            trained = make_step(train=dict(capture="auto"))
        assert trained.graphs == []
        assert host.current is host.main
        assert (host.allocating_to, host.pools, host.generator.capturing) == (None, [], False)
        for index in range(3):
            trained([make_batch(index)])
        assert host.faults == []
        eager = make_step(train=dict(capture="off"))
        for index in range(3):
            eager([make_batch(index)])
    assert same(bits(trained), bits(eager))


def test_close_frees_the_graphs_whoever_holds_the_step(monkeypatch):
    with cuda_host(monkeypatch) as host:
        trained = make_step(train=dict(capture="on"))
        graphs = list(trained.graphs)
        assert len(host.pools) == 2
        trained.close()
        assert host.pools == []
        with pytest.raises(Fault, match="reset"):
            graphs[0].replay()
        trained([make_batch(0)])  # eagerly


WITHOUT_COLLECTOR = """
import gc, sys
import pytest
gc.disable()
gc.collect = lambda *_: 0
from support.cuda_host import cuda_host
from support.steps import make_step
with cuda_host(pytest.MonkeyPatch()) as host:
    make_step(train=dict(capture="on"))
print(host.faults)
"""


def test_nothing_of_the_warm_up_lives_at_capture_though_no_collector_runs():
    """In a process of its own: the first custom op of a process imports what then pins the frames around it."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_COLLECTOR], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip().splitlines()[-1] == "[]"
