"""bench.soak: a short run has no problem; growth, gaps and repeated steps are reported."""

import pytest

from bench import soak


@pytest.mark.slow
def test_short_soak_has_no_problem(tmp_path) -> None:
    samples, lines = soak.soak(600, tmp_path)
    assert soak.judge(samples, lines) == []


def test_growth_and_gaps_are_reported() -> None:
    samples = [{"seconds": n, "memory_bytes": n * 2**20, "files": 9 + n // 50, "threads": 3} for n in range(100)]
    lines = [{"step": step} for step in (20, 40, 40, 80)]
    assert len(soak.judge(samples, lines)) == 3
