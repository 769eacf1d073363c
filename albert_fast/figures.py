"""The only module that imports matplotlib: figures are created without a display and written atomically."""

from pathlib import Path
from typing import Any

from albert_fast.files import whole_file
from albert_fast.options import UserError


def subplots(rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 4.8) -> tuple[Any, Any]:
    """pyplot.subplots without a display; width and height are in inches."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")


def save_figure(figure: Any, file: Path) -> Path:
    """Write a figure in the format of the file's suffix (PNG by default) and close it; returns the file.

    Raises:
        UserError: the suffix is not a known format, or the file system failed.
    """
    from matplotlib import pyplot

    known = figure.canvas.get_supported_filetypes()
    if file.suffix and file.suffix.removeprefix(".").lower() not in known:
        raise UserError(f"{file}: {file.suffix} is not a figure format; use one of {', '.join(known)}")
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=120, format=file.suffix.removeprefix(".") or "png")
    pyplot.close(figure)
    return file
