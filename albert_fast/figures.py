"""The one place that loads matplotlib: figures are made for files alone, and written whole or not at all."""

from pathlib import Path
from typing import Any

from albert_fast.files import whole_file
from albert_fast.options import UserError


def subplots(rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 4.8) -> tuple[Any, Any]:
    """A figure of so many inches and its axes, as pyplot.subplots returns them; no display is needed or opened."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")


def save_figure(figure: Any, file: Path) -> Path:
    """Write a figure in the format that the file's suffix names (PNG without one), and close it; returns the file.

    Raises:
        UserError: a suffix that names no format, or the file system's refusal.
    """
    from matplotlib import pyplot

    known = figure.canvas.get_supported_filetypes()
    if file.suffix and file.suffix.removeprefix(".").lower() not in known:
        raise UserError(f"{file}: {file.suffix} is no format of figures; use one of {', '.join(known)}")
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=120, format=file.suffix.removeprefix(".") or "png")
    pyplot.close(figure)
    return file
