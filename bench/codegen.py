"""python -m bench.codegen [--json] [--fast]: the machine code of every kernel in every configuration that runs use.

No GPU is needed: Triton compiles for a named target, and the binary is disassembled with the tools that Triton ships.
Reports registers and stack per thread, spills (LDL and STL), shared memory, matrix instructions (HMMA, HGMMA, UTCHMMA,
MFMA), TMA instructions, 128-bit and sub-32-bit global accesses, and instructions per element.
"""

import argparse
import os
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from albert_fast.files import strict_json
from albert_fast.text_tables import number_table
from bench.launches import TARGETS, Launch, launches  # import first: turns the interpreter off

# isort: split
import triton

from albert_fast.config import PRESETS
from albert_fast.kernels.calls import Sizes
from bench.shapes import PUBLISHED

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MATRIX = re.compile(r"HMMA|HGMMA|UTC[A-Z]*MMA|v_mfma")
TOKENS = (4096, 65536)  # few and many rows: their autotune candidates differ


@dataclass
class Row:
    """Statistics of a compiled Launch."""

    kernel: str
    config: str
    target: str
    registers: int
    stack_bytes: int
    spill_instructions: int
    shared_bytes: int
    matrix_instructions: int
    tma_instructions: int
    wide_accesses: int
    narrow_accesses: int
    instructions: int
    instructions_per_element: float | None


def compile_launch(launch: Launch) -> Row:
    """Compile and disassemble a launch; compiler errors propagate."""
    target = TARGETS[launch.target]
    compiled = triton.compile(launch.source(), target=target, options=launch.options)
    measured = _nvidia(compiled.asm["cubin"]) if "cubin" in compiled.asm else _amd(compiled.asm["amdgcn"])
    body = measured.pop("loop") or measured["instructions"]
    threads, elements = launch.options["num_warps"] * target.warp_size, _elements(launch.named_constants)
    return Row(
        kernel=launch.name,
        config=launch.config,
        target=launch.target,
        shared_bytes=compiled.metadata.shared,
        instructions_per_element=body * threads / elements if elements else None,
        **measured,
    )


def _elements(constants: dict[str, Any]) -> int:
    """Elements per iteration of a kernel's loop, or per program without a loop; 0 for matrix products."""
    if "BLOCK" in constants:
        return constants["BLOCK"]
    columns = min(constants.get("N_COLS", 0), constants.get("BLOCK_COLS", 0))
    return constants.get("BLOCK_ROWS", 1) * columns


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, f"{pattern} is missing in the output of the tools"
    return int(found[1])


def _nvidia(cubin: bytes) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def tool(name: str, option: str) -> str:
            return subprocess.run([TOOLS / name, option, path], check=True, capture_output=True, text=True).stdout

        # Read STACK: LOCAL is 0 even in kernels that spill.
        usage = tool("cuobjdump", "--dump-resource-usage")
        lines = tool("nvdisasm", "-c").splitlines()
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in lines:
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.append(instruction[1])
    operations = [re.sub(r"^@!?\w+\s+", "", line).split()[0] for line in code]
    loop = 0
    for at, line in enumerate(code):
        if (jump := re.search(r"BRA.*`\((\.L_\w+)\)", line)) and (start := labels.get(jump[1], at)) < at:
            loop = max(loop, at + 1 - start)

    def count(pattern: str) -> int:
        return sum(re.match(pattern, operation) is not None for operation in operations)

    return {
        "registers": _number(r"REG:(\d+)", usage), "stack_bytes": _number(r"STACK:(\d+)", usage),
        "spill_instructions": count("LDL|STL"),
        "matrix_instructions": count(MATRIX.pattern), "tma_instructions": count("UTMALDG|UTMASTG"),
        "wide_accesses": count(r"(LDG|STG|LDGSTS).*\.128"), "narrow_accesses": count(r"(LDG|STG).*\.[US](8|16)"),
        "instructions": len(operations) - count("NOP"), "loop": loop,
    }  # fmt: skip


def _amd(text: str) -> dict[str, int]:
    def number(name: str) -> int:
        return _number(rf"\.{name}:\s+(\d+)", text)

    def count(pattern: str) -> int:
        return len(re.findall(rf"^\s+(?:{pattern})", text, re.MULTILINE))

    return {
        "registers": number("vgpr_count"), "stack_bytes": number("private_segment_fixed_size"),
        "spill_instructions": number("vgpr_spill_count") + number("sgpr_spill_count"),
        "matrix_instructions": count("v_mfma"), "tma_instructions": 0,
        "wide_accesses": count(r"(?:global|buffer)_(?:load|store)_dwordx4"),
        "narrow_accesses": count(r"(?:global|buffer)_(?:load|store)_(?:[us]?byte|[us]?short)"),
        "instructions": count(r"[vs]_\w+|global_|buffer_|ds_"), "loop": 0,
    }  # fmt: skip


@cache
def jobs(fast: bool) -> list[Launch]:
    """Every specialization that a run of a published size launches by default; for base, all autotune candidates.

    fast: one launch per kernel, the one with most features enabled, for base in bf16 at many tokens on sm_90.
    """
    targets, names, tokens = (["sm_90"], ["base"], TOKENS[1:]) if fast else (list(TARGETS), list(PUBLISHED), TOKENS)
    found: dict[str, Launch] = {}
    for target, name, count in product(targets, names, tokens):
        preset = PRESETS[name]
        sizes = Sizes(count, preset["hidden_size"], preset["intermediate_size"], preset["num_attention_heads"])
        for dtype in (torch.bfloat16,) if fast else (torch.bfloat16, torch.float32):
            candidates = launches(target, sizes, dtype, every_candidate=name == "base")
            # Products over a larger hidden size differ only in the number of loop iterations.
            found |= {launch.key: launch for launch in candidates if "linear" not in launch.name or sizes.hidden < 2048}
    if not fast:
        return list(found.values())
    by_kernel: dict[str, list[Launch]] = {}
    for launch in found.values():
        by_kernel.setdefault(launch.name, []).append(launch)
    return [max(same, key=lambda x: list(x.named_constants.values()).count(True)) for same in by_kernel.values()]


def _compile_numbered(number_and_fast: tuple[int, bool]) -> Row:
    number, fast = number_and_fast
    return compile_launch(jobs(fast)[number])


def rows(fast: bool = False) -> list[Row]:
    """Compile every job on all cores, in forks that get job numbers because kernels cannot be pickled."""
    numbers = [(number, fast) for number in range(len(jobs(fast)))]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("fork")) as pool:
        results = pool.map(_compile_numbered, numbers)
        return list(track(results, "compiling", len(numbers), console=Console(stderr=True), transient=True))


def print_table(rows: list[Row]) -> None:
    headings = {
        "kernel": "kernel", "config": "config", "target": "target", "registers": "reg", "stack_bytes": "stack",
        "spill_instructions": "spills", "shared_bytes": "shared", "matrix_instructions": "matrix",
        "tma_instructions": "TMA", "wide_accesses": "128-bit", "narrow_accesses": "< 32-bit",
        "instructions_per_element": "instr. / element",
    }  # fmt: skip
    table = number_table(f"Compiled by Triton {triton.__version__}", list(headings.values()), text_columns=3)
    for row in rows:
        values = asdict(row)
        per_element = values["instructions_per_element"]
        values["instructions_per_element"] = "" if per_element is None else f"{per_element:.1f}"
        table.add_row(*(str(values[name]) for name in headings))
    Console(width=220).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON list of rows and nothing else")
    parser.add_argument("--fast", action="store_true", help="only one launch per kernel: base on sm_90")
    arguments = parser.parse_args()
    compiled = rows(arguments.fast)
    if arguments.json:
        print(strict_json([asdict(row) for row in compiled], indent=1))
    else:
        print_table(compiled)


if __name__ == "__main__":
    main()
