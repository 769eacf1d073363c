"""The host code around the CUDA attention kernels, on CPU over stand-ins that leave NaN where those write nothing."""

import pytest
import torch
import torch.nn.attention as registry
from support.attention_kernels import CU_SEQLENS, LONGEST, attention_inputs, cuda_bodies, flash_3

from albert_fast import attention, attention_cuda
from albert_fast.kernels import candidates
from albert_fast.kernels.candidates import candidates_of

HEAD_SIZES = (8, 16, 26, 64, 128)
KERNELS = [(torch.float32, "efficient"), (torch.bfloat16, "flash"), (torch.bfloat16, "efficient")]


def choosing(dtype: torch.dtype, head_size: int, some: bool, kernel: str):
    """Within it that kernel runs attention of the inputs."""
    qkv, q, _ = attention_inputs(head_size, dtype, some)
    with candidates.asking() as problems:
        attention_cuda._kernel(qkv, q, LONGEST)
    (candidate,) = (c for c in candidates_of(problems[0]) if c.name == kernel)
    return candidates.running({problems[0]: candidate})


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted")
@pytest.mark.parametrize("some", [False, True], ids=["all queries", "some queries"])
@pytest.mark.parametrize(("dtype", "kernel"), KERNELS, ids=lambda value: str(value).removeprefix("torch."))
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_cuda_attention_is_that_of_the_cpu(head_size, dtype, kernel, some, monkeypatch):
    qkv, q, own = attention_inputs(head_size, dtype, some)
    sequences = own, CU_SEQLENS, LONGEST
    wide = [None if x is None else x.double() for x in (qkv, q)]
    expected, log_sum_exp = attention.cpu_attention(*wide, *sequences)
    grad = torch.randn(expected.shape).to(dtype)
    expected_grads = attention.cpu_attention_backward(grad.double(), *wide, expected, log_sum_exp, *sequences)

    with choosing(dtype, head_size, some, kernel), cuda_bodies(monkeypatch) as kernels:
        out, saved = attention_cuda.cuda_attention(qkv, q, *sequences)
        grads = attention_cuda.cuda_attention_backward(grad, qkv, q, out, saved, *sequences)
    assert kernels.calls == [f"{kernel} forward", f"{kernel} backward"]
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    *grads, sums = grads
    *expected_grads, expected_sums = expected_grads
    results = zip([out, *grads, sums.sum(0)], [expected, *expected_grads, expected_sums[0]], strict=True)
    for actual, wanted in results:
        assert actual.is_contiguous()
        assert (actual.double() - wanted).norm() <= bound * wanted.norm()


def test_flash_3_is_offered_where_it_is_installed_and_runs_behind_torchs_flash_ops(monkeypatch):
    problem = candidates.Problem("attention", "sm_90", "bfloat16", 64, 16, 8, 16)

    def offered(**changes) -> list[str]:
        return [candidate.name for candidate in attention_cuda._candidates.__wrapped__(problem._replace(**changes))]

    assert offered() == ["flash", "efficient"]  # the package is not here
    with flash_3(monkeypatch) as switched:
        assert offered() == ["flash", "efficient", "flash 3"]
        assert offered(architecture="sm_80") == offered(architecture="sm_100") == ["flash", "efficient"]
        assert offered(dtype="float32") == ["efficient"]
        for kernel in ("flash", "flash 3", "flash 3", "flash", "flash"):
            attention_cuda._let_flash_be(kernel)
            assert registry.current_flash_attention_impl() == ("FA3" if kernel == "flash 3" else None)
        assert switched == ["on", "off"]
