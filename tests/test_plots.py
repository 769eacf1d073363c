"""matplotlib draws into files: no display is needed."""

from pathlib import Path

import matplotlib
import pytest

from albert_fast.plots import pyplot


def test_figures_are_drawn_without_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    plt = pyplot()
    assert matplotlib.get_backend().lower() == "agg"
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    figure.savefig(tmp_path / "a.png")
    plt.close(figure)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
