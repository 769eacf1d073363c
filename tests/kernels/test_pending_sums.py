"""Partial sums that wait for the next use of their vectors: none is lost or added twice, and less is launched."""

import pytest
import torch
from support.gates import DEVICES, assert_within, random
from torch.utils._python_dispatch import TorchDispatchMode

from albert_fast.kernels import add_layer_norm, candidates, gelu_ffn, pack_gradients, pending_sums
from albert_fast.kernels.calls import Sizes, calls
from albert_fast.kernels.pending_sums import collecting, pending

SIZES = Sizes(tokens=45, hidden=72, intermediate=200, heads=3)
OPS = ("add_layer_norm_backward", "gelu_ffn_backward", "pack_gradients")


class Counter(TorchDispatchMode):
    """Counts ops by name."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))

    def reductions(self) -> int:
        return self.names.count("albert_fast::accumulate_partials")


class Layers:
    """Uses of LayerNorm and feed-forward whose parameters have main_grad, each with rows of its own."""

    def __init__(self, sets: int = 1):
        shapes = {"bias": (24,), "weight": (24,), "shift": (24,), "up": (40, 24), "up_bias": (40,), "down": (24, 40)}
        self.sets = [
            {name: random(*shape, seed=10 * i + j).requires_grad_() for j, (name, shape) in enumerate(shapes.items())}
            for i in range(sets)
        ]
        for parameters in self.sets:
            for parameter in parameters.values():
                parameter.main_grad = torch.zeros_like(parameter)

    def run(self, uses: list[tuple[int, int]]) -> torch.Tensor:
        """Through the set and as many rows as each of `uses` says; the loss."""
        loss = torch.zeros(())
        for i, (which, rows) in enumerate(uses):
            p = self.sets[which]
            x, residual = random(rows, 24, seed=100 + i), random(rows, 24, seed=200 + i).requires_grad_()
            y = add_layer_norm.add_layer_norm(x, p["bias"], residual, p["weight"], p["shift"])
            z = gelu_ffn.gelu_ffn(y, p["up"], p["up_bias"], p["down"])
            loss = loss + (z * random(rows, 24, seed=300 + i)).sum()
        return loss

    def gradients(self) -> list[torch.Tensor]:
        return [parameter.main_grad for parameters in self.sets for parameter in parameters.values()]


@pytest.mark.parametrize(
    ("uses", "sets", "reductions"),
    [
        ([(0, 19)] * 5, 1, 2),  # one for the LayerNorm's three vectors, one for the feed-forward's
        ([(0, 19), (0, 19), (0, 7)], 1, 4),  # other rows have other chunks
        ([(i, 19) for i in range(6)], 6, 12),  # nothing is shared
        ([(0, 19), (1, 19)] * 3, 2, 4),  # two sets in turn
        ([(0, 19), (1, 19), (2, 19)] * 2, 3, 12),  # more than may wait
    ],
    ids=["shared", "rows", "unshared", "two in turn", "three in turn"],
)
def test_the_gradients_are_those_of_each_use_at_once(uses, sets, reductions):
    waiting, at_once = Layers(sets), Layers(sets)
    with collecting(), Counter() as counter:
        waiting.run(uses).backward()
        assert len(pending_sums._pending) <= pending_sums.MOST
        held = counter.reductions()
    with Counter() as immediate:
        at_once.run(uses).backward()
    assert immediate.reductions() == 2 * len(uses)
    assert held + min(pending_sums.MOST, reductions) == reductions
    for actual, expected in zip(waiting.gradients(), at_once.gradients(), strict=True):
        assert_within("gradient", actual, expected, 1e-6)
    again = Layers(sets)
    with collecting():
        again.run(uses).backward()
    assert all(torch.equal(a, b) for a, b in zip(again.gradients(), waiting.gradients(), strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_waits_gets_the_bits_of_what_would_have_been_made(dtype, device):
    def make(*shape, dtype):
        return random(*shape, seed=len(shape), dtype=dtype, device=device)

    checked = set()
    for call in calls(SIZES, dtype, make, "add_layer_norm", "gelu_ffn", "pack_gradients"):
        *arguments, sums = call.arguments
        if call.name.partition("::")[2] not in OPS or not isinstance(sums, torch.Tensor):
            continue
        before = sums.clone()
        *results, none = call()
        *expected, partials = call.op(*arguments, None)
        assert len(none) == 0
        assert torch.equal(sums, before + partials)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
        checked.add(call.name.partition("::")[2])
    assert checked == set(OPS)


def test_pytorchs_own_packing_adds_too():
    parts, sums = [random(9, 2, 8, seed=i) for i in range(3)], random(1, 1, 48, seed=5)
    before = sums.clone()
    problem = candidates.problem_of("pack_gradients", parts[0], 9, 16)
    plain = next(c for c in candidates.candidates_of(problem) if c.options is None)
    with candidates.running({problem: plain}):
        assert len(pack_gradients.pack_gradients(parts, 8, sums)[1]) == 0
    torch.testing.assert_close(sums[0, 0] - before[0, 0], torch.stack(parts, 1).flatten(1).sum(0))


def test_an_error_in_backward_leaves_nothing_waiting():
    layers = Layers()

    def fail():
        with collecting():
            layers.run([(0, 19)]).backward()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert pending([p.main_grad for p in layers.sets[0].values()][:3], 19) is None
    with collecting(), pytest.raises(AssertionError, match="nested"), collecting():
        pass


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op):
    def make(*shape, dtype):
        return random(*shape, seed=len(shape), dtype=dtype)

    made = calls(SIZES, torch.float32, make, "add_layer_norm", "gelu_ffn", "pack_gradients")
    call = [c for c in made if c.name.endswith(op)][-1]
    assert isinstance(call.arguments[-1], torch.Tensor)
    torch.library.opcheck(getattr(torch.ops.albert_fast, op), call.arguments)
