"""The fused update against its equations in fp64, by its laws, and under opcheck; the optimizer's side of it is in
test_fused_update.py."""

import math

import pytest
import torch
from support.gates import DEVICES, assert_within, random

from albert_fast.kernels import candidates
from albert_fast.kernels import lamb as module
from albert_fast.kernels.lamb import lamb

ROWS = [40, 3, 25, 7]  # of four parts, of which the last is a vector: neither decayed nor trusted
NAMES = ("grad", "exp_avg", "exp_avg_sq", "master", "compute")
RULE = dict(share=0.5, max_grad_norm=1.0, learning_rate=0.01, warmup_steps=2, max_steps=9, decay_power=1.0, beta1=0.9,
            beta2=0.999, epsilon=1e-6, debiases=False, weight_decay=0.1)  # fmt: skip


def state(columns: int, device: str = "cpu", rows: list[int] = ROWS, trusts: bool = True) -> dict:
    """Arguments of one update, steps and updates 0, of rows of `columns` elements; one part of the weights is 0."""
    total = sum(rows)
    flat = {name: random(total * columns, seed=i, device=device) for i, name in enumerate(NAMES)}
    flat["exp_avg_sq"].square_()
    flat["master"].view(total, columns)[rows[0] : rows[0] + rows[1]] = 0
    flat["compute"] = flat["master"].bfloat16()
    counters = {n: torch.zeros((), dtype=torch.int64, device=device) for n in ("steps", "updates")}
    counters |= {n: torch.zeros((), device=device) for n in ("gradient_norm", "last_learning_rate")}
    owners = torch.arange(len(rows), dtype=torch.int32).repeat_interleave(torch.tensor(rows)).to(device)
    around = [(sum(rows[:i]), sum(rows[i + 1 :])) for i in range(len(rows))]
    made = {"ratios": torch.zeros(len(rows), device=device), "lengths": torch.zeros(len(rows), 2, device=device)}
    if not trusts:
        made = dict.fromkeys(made)
    around = torch.tensor(around, dtype=torch.int32, device=device)
    return flat | counters | {"owners": owners, "around": around} | made


def rule(columns: int, rows: list[int] = ROWS, **changed) -> dict:
    trusted = 0 if changed.get("debiases") else len(rows) - 1
    return RULE | {"decayed": sum(rows[:-1]) * columns, "trusted": trusted} | changed


def in_fp64(s: dict, columns: int, r: dict) -> dict[str, torch.Tensor]:
    """The equations of LAMB and AdamW, a part at a time."""
    grad, exp_avg, exp_avg_sq, master = (s[name].double() for name in NAMES[:4])
    norm = grad.norm() * r["share"]
    scale = r["share"] * (min(r["max_grad_norm"] / (norm + 1e-6), 1.0) if r["max_grad_norm"] else 1.0)
    exp_avg = r["beta1"] * exp_avg + (1 - r["beta1"]) * grad * scale
    exp_avg_sq = r["beta2"] * exp_avg_sq + (1 - r["beta2"]) * (grad * scale) ** 2
    done, count = int(s["steps"]), int(s["updates"]) + 1
    first, second = (1 - r[beta] ** count if r["debiases"] else 1.0 for beta in ("beta1", "beta2"))
    change = (exp_avg / first) / ((exp_avg_sq / second).sqrt() + r["epsilon"])
    change[: r["decayed"]] += r["weight_decay"] * master[: r["decayed"]]
    left = (r["max_steps"] - done) / (r["max_steps"] - r["warmup_steps"])
    schedule = (done + 1) / r["warmup_steps"] if done < r["warmup_steps"] else left ** r["decay_power"]
    rate = r["learning_rate"] * schedule
    ratios = []
    for part, (before, after) in enumerate(s["around"].tolist()):
        own = slice(before * columns, len(grad) - after * columns)
        lengths = master[own].norm(), change[own].norm()
        ratios.append(float(lengths[0] / lengths[1]) if part < r["trusted"] and min(lengths) > 0 else 1.0)
        change[own] *= ratios[-1]
    found = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "master": master - rate * change, "gradient_norm": norm}
    return found | {"ratios": torch.tensor(ratios), "last_learning_rate": torch.tensor(rate)}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "changed",
    [{}, {"max_grad_norm": 0.0}, {"decay_power": 2.0, "learning_rate": 1.0}, {"debiases": True}],
    ids=["lamb", "unclipped", "squared decay", "adamw"],
)
@pytest.mark.parametrize("columns", [64, 8, 1024])
def test_equals_its_equations(columns, changed, device):
    s, r = state(columns, device), rule(columns, **changed)
    for step in range(5):  # into the decay
        s["grad"].copy_(random(len(s["grad"]), seed=10 + step, device=device))
        expected = in_fp64(s, columns, r)
        lamb(**s, **r)
        for name, wanted in expected.items():
            assert_within(f"step {step}, {name}", s[name], wanted, 1e-6)
        assert torch.equal(s["compute"], s["master"].bfloat16())
        assert not s["grad"].any()
    assert (s["steps"], s["updates"]) == (5, 5)
    lengths = s["lengths"].double()
    if not changed.get("debiases"):
        assert_within("trust", s["ratios"][:3], (lengths[:, 0] / lengths[:, 1])[:3], 1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("columns", [64, 8])
def test_every_candidate_and_every_rerun_give_the_same_bits_of_each_row(columns, device):
    """A tile changes where the squares of the gradient are added, so without clipping no weight depends on it."""
    results = []
    with candidates.asking() as problems:
        lamb(**state(columns, device), **rule(columns))
    for candidate in [*candidates.candidates_of(problems[0]), candidates.candidates_of(problems[0])[0]]:
        s = state(columns, device)
        with candidates.running({problems[0]: candidate}):
            lamb(**s, **rule(columns, max_grad_norm=0.0))
        results.append([s[name] for name in (*NAMES, "ratios")])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("debiases", [False, True], ids=["lamb", "adamw"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])  # the last: its square is too large
def test_a_gradient_that_is_not_finite_changes_nothing(bad, debiases, device):
    s, r = state(64, device), rule(64, debiases=debiases)
    s["grad"][77] = bad
    before = {name: s[name].clone() for name in NAMES[1:]}
    lamb(**s, **r)
    for name, kept in before.items():
        assert torch.equal(s[name], kept), name
    assert (s["steps"], s["updates"]) == (1, 0)
    assert not s["grad"].any()
    assert not math.isfinite(s["gradient_norm"])


def test_twice_the_gradient_at_half_the_share_is_the_same():
    one, two = state(64), state(64)
    two["grad"] *= 2
    lamb(**one, **rule(64))
    lamb(**two, **rule(64, share=0.25))
    assert all(torch.equal(one[name], two[name]) for name in (*NAMES, "ratios", "gradient_norm"))


def test_parts_do_not_meet():
    """Two matrices of one size in the other order, without clipping: the same bits in the other order."""
    rows, columns = [6, 6, 4], 32
    one, other = state(columns, rows=rows), state(columns, rows=rows)
    halves = slice(0, 6 * columns), slice(6 * columns, 12 * columns)
    for name in NAMES:
        other[name][halves[0]], other[name][halves[1]] = one[name][halves[1]], one[name][halves[0]]
    for s in (one, other):
        lamb(**s, **rule(columns, rows, max_grad_norm=0.0))
    for name in NAMES:
        for here, there in (halves, halves[::-1]):
            assert torch.equal(one[name][here], other[name][there]), name
    assert torch.equal(one["ratios"][[1, 0, 2]], other["ratios"])


def test_the_rate_is_zero_at_the_end():
    s = state(64)
    s["steps"].fill_(9)
    before = s["master"].clone()
    lamb(**s, **rule(64))
    assert torch.equal(s["master"], before)
    assert s["last_learning_rate"] == 0


def test_whole_numbers_launch_the_kernels_that_the_dispatcher_launches(monkeypatch):
    """A warm-up calls the op's body, a capture the op, and CUDA loads no kernel while a stream is captured."""

    class Noting:
        def __getitem__(self, grid):
            return lambda *given, **named: kinds.append([type(x) for x in (*given, *named.values())])

    for name in [name for name in vars(module) if name.startswith("_lamb_")]:
        monkeypatch.setattr(module, name, Noting())
    whole = rule(64, max_grad_norm=1, learning_rate=1, decay_power=2, weight_decay=0)
    launched = []
    for op in (module.update, torch.ops.albert_fast.lamb):
        kinds: list[list[type]] = []
        op(*state(64).values(), *whole.values())
        launched.append(kinds)
    assert len(launched[0]) == 5
    assert launched[0] == launched[1]


@pytest.mark.parametrize("trusts", [True, False], ids=["lamb", "adamw"])
def test_opcheck(trusts):
    arguments = (*state(64, trusts=trusts).values(), *rule(64, debiases=not trusts).values())
    torch.library.opcheck(torch.ops.albert_fast.lamb, arguments)
