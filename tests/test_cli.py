"""Every command teaches itself, both spellings of a flag work, and mistakes are one line and exit code 2."""

import subprocess
import sys

import pytest

from albert_fast.cli import COMMANDS, _underscored


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "albert_fast", *words], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_help_line(name):
    result = run(name, "--help")
    assert result.returncode == 0, result.stderr
    assert "==SUPPRESS==" not in result.stdout
    lines = result.stdout.split("options:")[1].splitlines()
    flags = [i for i, line in enumerate(lines) if line.startswith("  --")]
    for i in flags:
        described = len(lines[i].rstrip()) > 38 or lines[i + 1].startswith(" " * 20)
        assert described, lines[i]


def test_the_overview_names_every_command():
    shown = run().stdout
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_both_spellings():
    assert _underscored("--max-seq-length=a-b") == "--max_seq_length=a-b"
    assert _underscored("--no-sentence-order") == _underscored("--no_sentence_order") == "--no-sentence_order"
    assert _underscored("a-file") == "a-file"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["pretran"], "'pretran' is no command; use one of"),
        (["pretrain"], "required: data, output"),
        (["pretrain", "--learnig_rate=1"], "--learnig_rate"),
        (["pretrain", "--max_steps=many"], "many"),
    ],
)
def test_a_mistake_is_one_line(words, part):
    result = run(*words)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert part in result.stderr
