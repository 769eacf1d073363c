"""The tree says where a line lives: a test beside every module, and no file that holds two ideas."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Most lines of a file, by the first pattern that it matches; a file over its budget probably holds two things.
BUDGETS = (
    ("albert_fast/**/*.py", 300),
    ("kernels/*.py", 310),
    ("bench/*.py", 320),
    ("csrc/*", 320),
    ("tests/**/*.py", 360),
)


def test_no_file_is_over_its_budget() -> None:
    seen: set[Path] = set()
    over = []
    for pattern, budget in BUDGETS:
        for path in sorted(ROOT.glob(pattern)):
            if path in seen or not path.is_file() or path.suffix == ".so":
                continue
            seen.add(path)
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > budget:
                over.append(f"{path.relative_to(ROOT)}: {lines} lines of {budget}")
    assert not over, over


@pytest.mark.parametrize("room", ["", "data", "downstream", "convert", "measure", "tuning"])
def test_every_module_has_its_test(room: str) -> None:
    modules = {path.stem for path in (ROOT / "albert_fast" / room).glob("*.py") if not path.stem.startswith("__")}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / room).glob("test_*.py")}
    assert not modules - tests, sorted(modules - tests)
