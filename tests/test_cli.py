"""Help of every command, both spellings of a flag, errors in one line with exit code 2, and interrupted imports."""

import subprocess
import sys

import pytest
from support.commands import refused

from albert_fast.cli import COMMANDS, _underscored, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_help_line(name, capsys):
    with pytest.raises(SystemExit) as ending:
        main([name, "--help"])
    assert ending.value.code == 0
    text = capsys.readouterr().out
    assert not any(python in text for python in ("==SUPPRESS==", "default: (", "default: True"))
    lines = text.split("options:")[1].splitlines()
    flags = [i for i, line in enumerate(lines) if line.startswith("  --")]
    for i in flags:
        described = len(lines[i].rstrip()) > 38 or lines[i + 1].startswith(" " * 20)
        assert described, lines[i]


def test_the_overview_names_every_command():
    shown = subprocess.run([sys.executable, "-m", "albert_fast"], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (("pretrain", "--lr=1e-3"), "--learning_rate"),
        (("pretrain", "--epochs", "3"), "--max_steps"),
        (("pretrain", "--batch_size", "32"), "--tokens_per_batch"),
        (("pretrain", "--model", "run"), "--init_from"),
        (("pretrain", "--fp16"), "--precision"),
        (("pretrain", "--num-workers", "2"), "--loader_threads"),
        (("finetune", "--num_train_epochs", "3"), "--epochs"),
        (("finetune", "--lerning_rate", "1"), "--learning_rate"),
    ],
)
def test_a_flag_of_another_trainer_suggests_ours(arguments, suggested, capsys):
    assert f"did you mean {suggested}?" in refused(capsys, *arguments)


def test_the_overview_imports_neither_torch_nor_numpy():
    code = "import sys; from albert_fast.cli import main; main([]); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_both_spellings():
    assert _underscored("--max-seq-length=a-b") == "--max_seq_length=a-b"
    assert _underscored("--no-sentence-order") == _underscored("--no_sentence_order") == "--no-sentence_order"
    assert _underscored("a-file") == "a-file"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["pretran"], "unknown command 'pretran'; use one of"),
        (["pretrain"], "required: data, output"),
        (["pretrain", "--learnig_rate=1"], "--learnig_rate"),
        (["pretrain", "--max_steps=many"], "many"),
    ],
)
def test_a_mistake_is_one_line(arguments, part, capsys):
    message = refused(capsys, *arguments)
    assert message.count("\n") == 1
    assert part in message


INTERRUPTED_IMPORT = """
import contextlib, os, runpy, signal, sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            with contextlib.suppress(BaseException):  # as imports do that fall back on another module
                os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupted())
interrupted, sys.argv = sys.argv[1], ["albert-fast", "sizes"]
runpy.run_module("albert_fast", run_name="__main__")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.parametrize(("module", "code"), [("albert_fast.cli", 130), ("torch", 130), ("none", 0)])
def test_sigint_during_the_imports_exits_with_130(module, code):
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT, module], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (code, "")
