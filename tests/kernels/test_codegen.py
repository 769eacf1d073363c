"""What the compilers make of the kernels, under the pinned Triton: no spills, the instructions we meant, and few."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import triton

from albert_fast.kernels import KERNELS

ROOT = Path(__file__).resolve().parents[2]
PINNED = ("3.6.0", "3.9.0")  # what torch 2.11 and 2.13 bring

pytestmark = pytest.mark.skipif(triton.__version__ not in PINNED, reason=f"gates hold for the code of Triton {PINNED}")


def compiled(*options: str) -> list[dict]:
    """Rows of bench.codegen, in a process of its own: kernels are interpreted in this one."""
    command = [sys.executable, "-m", "bench.codegen", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "FP_FUSION" not in done.stderr, "Triton warns that its default will change"
    return json.loads(done.stdout)


def check(row: dict) -> list[str]:
    """What is wrong with a row: nothing, we hope."""
    wrong = []
    if row["target"] == "gfx942":  # it only has to compile
        return wrong
    if row["stack_bytes"] or row["spill_instructions"]:
        wrong.append(f"spills: stack {row['stack_bytes']}, {row['spill_instructions']} LDL and STL")
    is_product = "linear" in row["kernel"].split(".")[1]
    if is_product and not row["matrix_instructions"] and not row["config"].startswith("fp32"):  # which IEEE's has none
        wrong.append("no matrix instructions")
    if "TMA=True" in row["config"] and not row["tma_instructions"]:
        wrong.append("no TMA instructions")
    alone = 1 if "_cross_entropy_rows" in row["kernel"] else 0  # the target's logit
    if not is_product and row["narrow_accesses"] > alone:
        wrong.append(f"{row['narrow_accesses']} accesses below 32 bits")
    sums = ("_sum_partials_kernel", "_lamb_numbers_kernel", "_lamb_trust_kernel")  # of whose rows few start aligned
    if not row["kernel"].endswith(sums) and "TMA=True" not in row["config"] and not row["wide_accesses"]:
        wrong.append("no 128-bit access")
    # Of the default tile, with 16 columns a thread; others are candidates because they trade instructions for bytes.
    default = "N_COLS=768 BLOCK_ROWS=1 " in row["config"] and "num_warps=2 " in row["config"]
    if row["kernel"] == "add_layer_norm._add_layer_norm_forward_kernel" and default:
        bound = 50 if "HAS_DROPOUT=True" in row["config"] else 30
        if row["instructions_per_element"] > bound:
            wrong.append(f"{row['instructions_per_element']:.1f} instructions per element, bound {bound}")
    return wrong


def assert_all_hold(rows: list[dict]) -> None:
    wrong = [f"{r['kernel']} [{r['config']}] {r['target']}: {'; '.join(w)}" for r in rows if (w := check(r))]
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def base() -> list[dict]:
    return compiled("--fast")


def test_the_base_configurations_hold_their_gates(base):
    assert {row["kernel"].partition(".")[0] for row in base} >= set(KERNELS)
    assert_all_hold(base)


@pytest.mark.slow
def test_every_configuration_of_the_tables_holds_its_gates():
    rows = compiled()
    assert {row["target"] for row in rows} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert_all_hold(rows)


def test_gates_can_fail(base):
    product = next(row for row in base if "TMA=True" in row["config"])
    for change in ({"stack_bytes": 8}, {"spill_instructions": 1}, {"matrix_instructions": 0}, {"tma_instructions": 0}):
        assert check({**product, **change}), change
    for change in ({"narrow_accesses": 2}, {"wide_accesses": 0}, {"instructions_per_element": 50.1}):
        assert check({**base[0], **change}), change
