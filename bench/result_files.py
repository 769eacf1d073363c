"""Result files of benches, read back and put by what they timed."""

import json
from pathlib import Path
from typing import Any

from albert_fast.options import UserError

File = tuple[Path, dict[str, Any]]  # a result file and what it holds
Key = tuple[str, str, str, int, str]  # op, direction, preset, tokens, implementation


def read_results(file: Path) -> dict[str, Any]:
    """A result file; raises UserError for anything else."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; give JSON files of bench/results") from None
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); give files that a bench wrote") from None
    if not isinstance(document, dict):
        raise UserError(f"{file} holds {type(document).__name__}, not an object; give files that a bench wrote")
    return document


def timed_rows(document: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    """Rows with a time, by what they timed."""
    names = ("op", "direction", "preset", "tokens", "implementation")
    return {tuple(row[name] for name in names): row for row in document["rows"] if "median_seconds" in row}  # type: ignore[misc]


def peer(rows: dict[Key, dict[str, Any]], key: Key) -> dict[str, Any] | None:
    """The row that `key` is to be held against: eager torch's or HuggingFace's of the same group."""
    for name in ("torch", "huggingface", "torch-foreach"):
        if (*key[:4], name) in rows:
            return rows[(*key[:4], name)]
    return None


def speed(row: dict[str, Any], base: dict[str, Any]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of how many times as fast as its peer `base` a row is.

    They are those of paired calls if the bench made pairs, else the peer's median over the row's quartiles.
    """
    if "against_eager" in row:
        low, median, high = row["against_eager"]
        return low, median, high
    low, median, high = (base["median_seconds"] / row[f"{name}_seconds"] for name in ("q3", "median", "q1"))
    return low, median, high
