"""Inputs of every op that has candidates, and the work that they ask for."""

import torch
from support.cuda_host import DEVICE, cuda_host
from torch.overrides import TorchFunctionMode

from albert_fast.kernels import candidates
from albert_fast.kernels.candidates import Problem
from albert_fast.ops import get_ops
from albert_fast.tuning.cases import Maker, cases, work

CPU = torch.device("cpu")
FEED_FORWARD = Problem("gelu_ffn_forward", "sm_90", "float32", 16, 48, 32)
LAYER_NORM = Problem("add_layer_norm_backward", "sm_90", "float32", 16, 40)
UPDATE = Problem("lamb", "sm_90", "float32", 16, 64)


def test_every_op_that_has_candidates_has_cases():
    get_ops("triton")  # registers the candidates
    assert candidates._CANDIDATES
    for op in candidates._CANDIDATES:
        problem = Problem(op, "sm_90", "float32", 16, 48, 24, 8)
        assert cases(problem, 3, Maker(CPU, torch.float32)), op


class Draws(TorchFunctionMode):
    """Notes where random numbers are drawn."""

    def __init__(self):
        super().__init__()
        self.devices = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.randn, torch.randint):
            self.devices.append((kwargs or {}).get("device"))
        return func(*args, **(kwargs or {}))


def test_a_card_draws_its_own_numbers(monkeypatch):
    """Those of one LayerNorm at 65,536 tokens would take a CPU seconds, for each candidate again."""
    made = torch.Generator

    class OnHost:
        def __new__(cls, device):
            return made()

    with cuda_host(monkeypatch):
        monkeypatch.setattr(torch, "Generator", OnHost)
        for op in candidates._CANDIDATES:
            with Draws() as draws:
                for case in cases(Problem(op, "sm_90", "float32", 16, 48, 24, 8), 9, Maker(DEVICE, torch.float32)):
                    case.results(case.reference(), torch.float32)
            assert set(draws.devices) == {DEVICE}, op


def test_work_is_the_bytes_that_must_move_or_the_flops():
    assert work(FEED_FORWARD) == (0, 4 * 16 * 48 * 32)
    assert work(FEED_FORWARD._replace(op="gelu_ffn_backward")) == (0, 8 * 16 * 48 * 32)
    assert work(LAYER_NORM) == (3 * 16 * 40 * 4, 0)
    assert work(LAYER_NORM._replace(op="add_layer_norm_forward", dtype="bfloat16")) == (4 * 16 * 40 * 2, 0)
    assert work(LAYER_NORM._replace(op="embed_layer_norm_forward")) == (2 * 16 * 40 * 4, 0)
    assert work(LAYER_NORM._replace(op="pack_gradients")) == (6 * 16 * 40 * 4, 0)
    attention = LAYER_NORM._replace(op="attention", depth=8, length_to=4)
    assert work(attention) == (0, 7 * 2 * 16 * 4 * 40)
    assert work(attention._replace(op="attention_of_some"))[1] == work(attention)[1] // 6
    assert work(UPDATE) == (50 * 16 * 64, 0)
    assert work(FEED_FORWARD._replace(op="linear_cross_entropy")) == (0, 3 * 2 * 16 * 48 * 32)
