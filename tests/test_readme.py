"""The README's examples run as they stand, and what it links to is there."""

import re
from pathlib import Path

import pytest

from albert_fast.data.prepare import PrepareOptions, prepare

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_training_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join("" if n % 9 == 8 else f"word{n % 50} another{n % 30} and then some more" for n in range(4000))
    (tmp_path / "text.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    prepare(PrepareOptions(input=("text.txt",), output="data", train_vocab=200, workers=1))
    exec(next(example for example in EXAMPLES if "PretrainingLoader" in example), {})


def test_the_kernels_are_imported_as_it_says() -> None:
    exec(next(example for example in EXAMPLES if "albert_fast.kernels" in example), {})


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_command_it_names_exists() -> None:
    from albert_fast.cli import COMMANDS

    named = set(re.findall(r"^albert-fast +([a-z-]+)", README, re.MULTILINE))
    assert named - COMMANDS.keys() == set()
    targets = set(re.findall(r"make ([a-z-]+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets), targets
