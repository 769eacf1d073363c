"""Reads result files of benchmarks and indexes their rows by what was timed."""

import json
from pathlib import Path
from typing import Any

from albert_fast.options import UserError

File = tuple[Path, dict[str, Any]]  # a result file and its content
Key = tuple[str, str, str, int, str]  # op, direction, preset, tokens, implementation


def read_results(file: Path) -> dict[str, Any]:
    """The content of a result file; raises UserError if it is unreadable or not a JSON object."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; give a JSON file of bench/results") from None
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); give a file that a benchmark wrote") from None
    if not isinstance(document, dict):
        raise UserError(
            f"{file} contains a {type(document).__name__}, not an object; give a file that a benchmark wrote"
        )
    return document


def timed_rows(document: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    """The rows that have a time, by key."""
    names = ("op", "direction", "preset", "tokens", "implementation")
    return {tuple(row[name] for name in names): row for row in document["rows"] if "median_seconds" in row}  # type: ignore[misc]


def peer(rows: dict[Key, dict[str, Any]], key: Key) -> dict[str, Any] | None:
    """The baseline for `key`: the row of eager torch or HuggingFace in the same group; None if it was not timed."""
    names = ("torch", "huggingface", "torch-foreach")
    return next((rows[(*key[:4], name)] for name in names if (*key[:4], name) in rows), None)


def speed(row: dict[str, Any], base: dict[str, Any]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile) of the speed-up of a row over its baseline `base`.

    Taken over paired calls if the benchmark made pairs, otherwise the baseline's median over the row's quartiles.
    """
    unpaired = [base["median_seconds"] / row[f"{name}_seconds"] for name in ("q3", "median", "q1")]
    low, median, high = row.get("against_eager", unpaired)
    return low, median, high
