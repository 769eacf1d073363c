"""Tiles of the feed-forward products: the candidates besides the library's product with an elementwise pass."""

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from .candidates import Candidate, Problem, candidates, chosen, problem_of


@dataclass(frozen=True)
class Tile:
    """Tiling of a product: rows x columns of output per program, depth of a step, warps and pipeline stages."""

    rows: int
    cols: int
    depth: int
    num_warps: int
    num_stages: int
    tma: bool

    @property
    def name(self) -> str:
        reads = "TMA" if self.tma else "pointers"
        return f"{self.rows}x{self.cols}x{self.depth}, {self.num_warps} warps, {self.num_stages} stages, {reads}"


# Registers and shared memory as compiled offline (python -m bench.codegen); none spills.
TILES: dict[tuple[str, str], list[tuple[Tile, str]]] = {
    ("sm_80", "forward"): [
        (Tile(128, 128, 32, 8, 4, False), "128 registers, 48 KB: two programs per SM"),
        (Tile(128, 64, 32, 4, 4, False), "more programs where rows are few"),
    ],
    ("sm_80", "backward"): [
        (Tile(128, 128, 32, 8, 4, False), "150 registers; a depth of 64 gains no register"),
        (Tile(64, 128, 32, 4, 4, False), "more programs where rows are few"),
    ],
    ("sm_90", "forward"): [
        (Tile(128, 256, 64, 8, 3, True), "170 to 190 registers, 147 KB; reads x half as often"),
        (Tile(128, 128, 64, 8, 3, True), "98 KB: two programs per SM, one's epilogue overlaps the other's product"),
        (Tile(128, 128, 64, 8, 4, True), "a stage more against memory's latency, one program an SM"),
    ],
    ("sm_90", "backward"): [
        (Tile(128, 128, 64, 8, 3, True), "106 to 130 registers, two programs per SM; 128 x 256 spills with erf"),
        (Tile(128, 128, 64, 8, 4, True), "a stage more against memory's latency, one program an SM"),
    ],
    ("sm_100", "forward"): [
        (Tile(128, 256, 64, 8, 3, True), "136 to 160 registers; the accumulator is in tensor memory"),
        (Tile(128, 128, 64, 8, 4, True), "77 registers; fills 148 SMs sooner"),
    ],
    ("sm_100", "backward"): [
        (Tile(128, 128, 64, 8, 4, True), "101 to 144 registers; 128 x 256 reaches 255 with erf"),
        (Tile(128, 128, 64, 8, 3, True), "less shared memory: two programs per SM"),
    ],
    ("gfx942", "forward"): [(Tile(128, 128, 32, 8, 2, False), "64 KB of LDS allow no more")],
    ("gfx942", "backward"): [(Tile(128, 128, 32, 8, 2, False), "64 KB of LDS allow no more")],
}
FEW_ROWS = 8192  # below this, tiles of 256 columns leave SMs idle at F = 3072


def _tiles(direction: str, problem: Problem) -> list[Candidate]:
    """Candidates, those that suit the number of rows first."""
    found = TILES.get((problem.architecture, direction), [])
    if problem.rows_to <= FEW_ROWS // 2:
        found = sorted(found, key=lambda item: item[0].cols > 128)
    return [Candidate(tile.name, tile, reason) for tile, reason in found]


def _with_library(direction: str, problem: Problem) -> list[Candidate]:
    """The library first: our kernels run only after a card has shown them to be correct and faster.

    In fp32 the library is alone: with operands twice as wide, every sm_90 tile spills hundreds of registers.
    """
    library = Candidate("library", None, "cuBLAS and one elementwise pass: the baseline")
    return [library] if problem.dtype == "float32" else [library, *_tiles(direction, problem)]


for _direction in ("forward", "backward"):
    candidates(f"gelu_ffn_{_direction}")(partial(_with_library, _direction))


def choose(direction: str, implementation: str, n_rows: int, n_cols: int, depth: int, like: Tensor) -> Tile | None:
    """The tile for the product [n_rows, depth] x [depth, n_cols], or None for the library.

    implementation: auto uses the choice for the problem; library, pointer and tma force one, for tests and benches. TMA
    needs rows of a multiple of 16 bytes; others are read through pointers.
    """
    problem = problem_of(f"gelu_ffn_{direction}", like, n_rows, n_cols, depth)
    if implementation == "auto":
        tile = chosen(problem).options
    else:
        tile = next((c.options for c in _tiles(direction, problem)), None) if implementation != "library" else None
    if tile is None:
        return None
    aligned = all(size * like.element_size() % 16 == 0 for size in (n_cols, depth))
    return replace(tile, tma=aligned and (tile.tma if implementation == "auto" else implementation == "tma"))
