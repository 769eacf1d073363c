"""The soak's judgement: a short run is well, and growth, gaps and doubled steps are told."""

import pytest

from bench import soak


@pytest.mark.slow
def test_a_short_soak_is_well(tmp_path) -> None:
    looks, lines = soak.soak(600, tmp_path)
    assert soak.judge(looks, lines) == []


def test_what_grows_is_told() -> None:
    looks = [{"seconds": n, "memory_bytes": n * 2**20, "files": 9 + n // 50, "threads": 3} for n in range(100)]
    lines = [{"step": step} for step in (20, 40, 40, 80)]
    assert len(soak.judge(looks, lines)) == 3
