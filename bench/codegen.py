"""python -m bench.codegen [--json] [--fast]: what the compilers make of every kernel in every chosen configuration.

No GPU is needed: Triton compiles for a named target, and the binary is taken apart with the tools that Triton brings.
Shown are registers and stack per thread, spills (LDL and STL), shared memory, matrix instructions (HMMA, HGMMA,
UTCHMMA, MFMA), TMA instructions, 128-bit and sub-32-bit global accesses, and instructions per element.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # kernels are compiled here; before any of them is imported

import triton
from rich.console import Console
from rich.progress import track
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from albert_fast.config import PRESETS
from albert_fast.kernels import add_layer_norm, gelu, gelu_ffn, partial_sums, tiles
from bench.shapes import PUBLISHED

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SCALARS = {"epsilon": "fp32", "scale": "fp32"}  # every other number is an int32
FP32_POINTERS = {"mean_ptr", "rstd_ptr", "partial_ptr", "total0_ptr", "total1_ptr", "total2_ptr"}
MATRIX = re.compile(r"HMMA|HGMMA|UTC[A-Z]*MMA|v_mfma")


@dataclass(frozen=True)
class Job:
    """One kernel in one configuration for one target."""

    module: Any
    kernel: str
    target: str
    dtype: str
    constants: dict[str, Any]
    descriptors: dict[str, tuple[int, int]]
    num_warps: int
    num_stages: int = 3
    elements: int = 0  # that one pass of the loop, or the program where there is none, deals with

    @property
    def config(self) -> str:
        shown = [f"{name}={value}" for name, value in self.constants.items()]
        return " ".join([self.dtype, *shown, f"num_warps={self.num_warps}", f"num_stages={self.num_stages}"])


@dataclass
class Row:
    """What became of a Job; None where the target's tools do not say."""

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


def _signature(job: Job, names: list[str]) -> dict[str, str]:
    types = {}
    for name in names:
        if name in job.constants:
            types[name] = "constexpr"
        elif name in job.descriptors:
            types[name] = f"tensordesc<{job.dtype}[{', '.join(map(str, job.descriptors[name]))}]>"
        elif name == "key_ptr":
            types[name] = "*i64"
        elif name in FP32_POINTERS:
            types[name] = "*fp32"
        elif name.endswith("_ptr") or name in ("x", "weight", "grad", "z", "h", "grad_z"):
            types[name] = f"*{job.dtype}"
        else:
            types[name] = SCALARS.get(name, "i32")
    return types


def compile_job(job: Job) -> Row:
    """Compile and take apart; raises what the compiler raises."""
    function = getattr(job.module, job.kernel)
    names = function.arg_names
    signature = _signature(job, names)
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in job.constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")},
    )
    options = {"num_warps": job.num_warps, "num_stages": job.num_stages}
    compiled = triton.compile(source, target=TARGETS[job.target], options=options)
    measured = _nvidia(compiled.asm["cubin"]) if "cubin" in compiled.asm else _amd(compiled.asm["amdgcn"])
    body = measured.pop("loop") or measured["instructions"]
    threads = job.num_warps * TARGETS[job.target].warp_size
    return Row(
        kernel=f"{job.module.__name__.rpartition('.')[2]}.{job.kernel}",
        config=job.config,
        target=job.target,
        shared_bytes=compiled.metadata.shared,
        instructions_per_element=body * threads / job.elements if job.elements else None,
        **measured,
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in what the tools say"
    return int(found[1])


def _nvidia(cubin: bytes) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def tool(name: str, option: str) -> str:
            return subprocess.run([TOOLS / name, option, path], check=True, capture_output=True, text=True).stdout

        # STACK shows what LOCAL, 0 even in kernels that spill, does not.
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


# ---------------------------------------------------------------------------------------------------------------- jobs


def layer_norm_jobs(target: str, hidden: int, dtype: str, dropout: bool) -> list[Job]:
    forward, backward = (add_layer_norm.launch_options(hidden, backward=b) for b in (False, True))
    jobs = []
    for kernel, options, flags in (
        ("_add_layer_norm_forward_kernel", forward, {}),
        ("_add_layer_norm_backward_kernel", backward, {"HAS_GRAD_SUM": False}),
        ("_add_layer_norm_backward_kernel", backward, {"HAS_GRAD_SUM": True}),
    ):
        constants = {"N_COLS": hidden, **options, "HAS_DROPOUT": dropout, **flags}
        warps = constants.pop("num_warps")
        elements = hidden * options["BLOCK_ROWS"]
        jobs.append(Job(add_layer_norm, kernel, target, dtype, constants, {}, int(warps), elements=elements))
    return jobs


def sum_jobs(target: str, hidden: int) -> list[Job]:
    options = partial_sums.sum_options(hidden)
    flags = ({"N_VECTORS": 3, "N_COLS": hidden, **options, "ACCUMULATE": accumulate} for accumulate in (False, True))
    return [Job(partial_sums, "_sum_partials_kernel", target, "fp32", constants, {}, 4) for constants in flags]


def gelu_jobs(target: str, wide: int, dtype: str, tanh: bool) -> list[Job]:
    jobs = []
    for kernel, options in (
        ("_gelu_forward_kernel", gelu.FORWARD_OPTIONS),
        ("_gelu_backward_kernel", gelu.BACKWARD_OPTIONS),
    ):
        constants = {"N_COLS": wide, **options, "TANH": tanh}
        warps = constants.pop("num_warps")
        elements = options.get("BLOCK") or options["BLOCK_ROWS"] * options["BLOCK_COLS"]
        jobs.append(Job(gelu, kernel, target, dtype, constants, {}, int(warps), elements=elements))
    return jobs


def product_jobs(target: str, hidden: int, wide: int, dtype: str, tanh: bool) -> list[Job]:
    """Both products in the tiles of the table, and the pointer twin of each TMA tile (rows that TMA cannot read)."""
    jobs = []
    for direction, kernel in (("forward", "_linear_gelu_kernel"), ("backward", "_gelu_linear_backward_kernel")):
        for choice in tiles.CHOICES[target, direction]:
            tile = choice.tile
            for tma in {tile.tma, False}:
                part, operands = (tile.rows, tile.cols // 4), ((tile.rows, tile.depth), (tile.cols, tile.depth))
                if direction == "forward":
                    descriptors = {"x": operands[0], "weight": operands[1], "z": part, "h": part}
                else:
                    down = operands[1][::-1]
                    descriptors = {"grad": operands[0], "weight": down, "z": part, "grad_z": part, "h": part}
                constants = {
                    "N_COLS": wide, "DEPTH": hidden, "ROWS": tile.rows, "COLS": tile.cols, "STEP": tile.depth,
                    "TMA": tma, "TANH": tanh,
                }  # fmt: skip
                used = descriptors if tma else {}
                warps, stages = tile.num_warps, tile.num_stages
                jobs.append(Job(gelu_ffn, kernel, target, dtype, constants, used, warps, stages))
    return jobs


def jobs(fast: bool) -> list[Job]:
    """Every configuration that the tables can choose; fast: base alone, for sm_90, with dropout and tanh."""
    if fast:
        products = product_jobs("sm_90", 768, 3072, "bf16", True)
        both = (next(j for j in products if j.descriptors and name in j.descriptors) for name in ("x", "grad"))
        return [*layer_norm_jobs("sm_90", 768, "bf16", True)[:2], *both]
    chosen: list[Job] = []
    sizes = [(PRESETS[name]["hidden_size"], PRESETS[name]["intermediate_size"]) for name in PUBLISHED]
    for target in TARGETS:
        for hidden, wide in sizes:
            for dtype, dropout in product(("bf16", "fp32"), (False, True)):
                chosen += layer_norm_jobs(target, hidden, dtype, dropout)
            chosen += sum_jobs(target, hidden)
            for tanh in (True, False):
                chosen += gelu_jobs(target, wide, "bf16", tanh)
                if hidden in (312, 768):  # deeper products differ in the count of steps alone
                    chosen += product_jobs(target, hidden, wide, "bf16", tanh)
    return chosen


def _compile_numbered(number_and_fast: tuple[int, bool]) -> Row:
    number, fast = number_and_fast
    return compile_job(jobs(fast)[number])


def rows(fast: bool = False) -> list[Row]:
    """Every job compiled, on every core (a worker finds its job by number: kernels do not pickle)."""
    if fast:  # too few to be worth another process
        return [compile_job(job) for job in jobs(fast)]
    numbers = [(number, fast) for number in range(len(jobs(fast)))]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        results = pool.map(_compile_numbered, numbers)
        return list(track(results, "compiling", len(numbers), console=Console(stderr=True), transient=True))


def print_table(rows: list[Row]) -> None:
    table = Table(title=f"Compiled by Triton {triton.__version__}")
    headings = {
        "kernel": "kernel", "config": "config", "target": "target", "registers": "reg", "stack_bytes": "stack",
        "spill_instructions": "spills", "shared_bytes": "shared", "matrix_instructions": "matrix",
        "tma_instructions": "TMA", "wide_accesses": "128-bit", "narrow_accesses": "< 32-bit",
        "instructions_per_element": "instr. / element",
    }  # fmt: skip
    for name, heading in headings.items():
        table.add_column(heading, justify="left" if name in ("kernel", "config", "target") else "right")
    for row in rows:
        values = asdict(row)
        per_element = values["instructions_per_element"]
        values["instructions_per_element"] = "" if per_element is None else f"{per_element:.1f}"
        table.add_row(*(str(values[name]) for name in headings))
    Console(width=220).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON list of rows and nothing else")
    parser.add_argument("--fast", action="store_true", help="base alone, for sm_90")
    arguments = parser.parse_args()
    compiled = rows(arguments.fast)
    if arguments.json:
        print(json.dumps([asdict(row) for row in compiled], indent=1))
    else:
        print_table(compiled)


if __name__ == "__main__":
    main()
