"""Figures need no display and are closed once saved."""

from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot

from albert_fast.figures import save_figure, subplots


def test_figures_are_drawn_without_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    figure, axes = subplots()
    assert matplotlib.get_backend().lower() == "agg"
    axes.plot([1, 2])
    assert save_figure(figure, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not pyplot.fignum_exists(figure.number)
