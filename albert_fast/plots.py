"""The one place that loads matplotlib: quietly, and for files alone."""

from __future__ import annotations

from types import ModuleType


def pyplot() -> ModuleType:
    """matplotlib.pyplot, drawing into files (no display is needed, and none is opened)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
