"""Which implementation of the feed-forward products runs where, and the tiles of those that are ours."""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """How a product is cut: rows x columns of the output a program makes, the depth of a step, warps and stages."""

    rows: int
    cols: int
    depth: int
    num_warps: int
    num_stages: int
    tma: bool


@dataclass(frozen=True)
class Choice:
    """The tile for products of `rows_from` rows and more, whether it runs (else the library does), and why."""

    rows_from: int
    tile: Tile
    runs: bool
    reason: str


# Read from the code compiled offline (python -m bench.codegen). Nothing was timed on a device yet, so none runs: a row
# may say True once bench_gelu_ffn shows on that architecture that it beats the library's product and a pass behind it.
CHOICES: dict[tuple[str, str], list[Choice]] = {
    ("sm_80", "forward"): [
        Choice(0, Tile(128, 128, 32, 8, 4, False), False, "128 registers, 48 KB: two programs an SM, one at depth 64"),
    ],
    ("sm_80", "backward"): [
        Choice(0, Tile(128, 128, 32, 8, 4, False), False, "150 registers, no spill; a depth of 64 gains no register"),
    ],
    ("sm_90", "forward"): [
        Choice(8192, Tile(128, 256, 64, 8, 3, True), False, "170 to 190 registers, 147 KB; reads x half as often"),
        Choice(0, Tile(128, 128, 64, 8, 3, True), False, "below 8192 rows 128 x 256 leaves SMs idle at F = 3072"),
    ],
    ("sm_90", "backward"): [
        Choice(0, Tile(128, 128, 64, 8, 3, True), False, "106 to 130 registers; 128 x 256 spills with erf"),
    ],
    ("sm_100", "forward"): [
        Choice(8192, Tile(128, 256, 64, 8, 3, True), False, "136 to 160 registers; the product lives in tensor memory"),
        Choice(0, Tile(128, 128, 64, 8, 4, True), False, "77 registers; fills 148 SMs sooner"),
    ],
    ("sm_100", "backward"): [
        Choice(0, Tile(128, 128, 64, 8, 4, True), False, "101 to 144 registers; 128 x 256 reaches 255 with erf"),
    ],
    ("gfx942", "forward"): [Choice(0, Tile(128, 128, 32, 8, 2, False), False, "compiles; 64 KB of LDS allow no more")],
    ("gfx942", "backward"): [Choice(0, Tile(128, 128, 32, 8, 2, False), False, "compiles; 64 KB of LDS allow no more")],
}  # fmt: skip


@cache
def architecture(device: torch.device) -> str:
    """sm_90, gfx942, ...; where kernels are interpreted, sm_90, whose tiles exercise every path."""
    if device.type != "cuda":
        return "sm_90"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def choose(direction: str, implementation: str, n_rows: int, n_cols: int, depth: int, like: Tensor) -> Tile | None:
    """The tile for the product [n_rows, depth] x [depth, n_cols], or None for the library's.

    implementation: auto asks the table; library, pointer and tma insist, for tests and benches. TMA wants rows of a
    multiple of 16 bytes; other rows are read through pointers.
    """
    rows = CHOICES.get((architecture(like.device), direction), [])
    choice = next((row for row in rows if n_rows >= row.rows_from), None)
    if choice is None or implementation == "library" or (implementation == "auto" and not choice.runs):
        return None
    aligned = all(size * like.element_size() % 16 == 0 for size in (n_cols, depth))
    tma = aligned and (choice.tile.tma if implementation == "auto" else implementation == "tma")
    return replace(choice.tile, tma=tma)
