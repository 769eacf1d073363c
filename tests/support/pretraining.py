"""`albert-fast pretrain` on a small English corpus, usually in a fork, and its results."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.crashes import finish, launch, said

from albert_fast.cli import main
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.demo import python_topics

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
TWO_RANKS = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def prepared_folder(root: Path) -> Path:
    """Prepare a folder of English text, a held-out one, and a small config in `root`."""
    text = python_topics().split("\n\n")
    for name, documents in (("train", text[:60]), ("held_out", text[60:])):
        (root / f"{name}.txt").write_text("\n\n".join(documents))
    prepare(PrepareOptions(input=(str(root / "train.txt"),), output=str(root / "data"), train_vocab=600, workers=1))
    vocab = str(root / "data" / "vocab.txt")
    prepare(PrepareOptions(input=(str(root / "held_out.txt"),), output=str(root / "eval"), vocab=vocab, workers=1))
    (root / "config.json").write_text(
        json.dumps({**SHAPE, "embedding_size": 16, "vocab_size": 600, "hidden_dropout_prob": 0.1})
    )
    return root


def arguments(folder: Path, output: Path, **flags) -> list[str]:
    flags = {
        "data": folder / "data", "output": output, "config": folder / "config.json", "tokens_per_batch": 512,
        "max_seq_length": 64, "max_steps": 40, "warmup_steps": 4, "learning_rate": 0.02, "logging_steps": 1,
        "save_steps": 5, "seed": 3, **flags,
    }  # fmt: skip
    return ["pretrain", *(f"--{name}={value}" for name, value in flags.items())]


def started(*words: str, launcher: tuple[str, ...] = (sys.executable,), **where: Any) -> subprocess.Popen:
    """Start `albert-fast` in a new interpreter, or in those of a launcher; output is discarded by default."""
    where = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **where}
    return subprocess.Popen([*launcher, "-m", "albert_fast", *words], env=ENVIRONMENT, text=True, **where)


def run(*words: str) -> subprocess.CompletedProcess:
    """Run `albert-fast` in a fork of this process, which has imported everything."""
    (process,) = launch(main, words)
    (code,) = finish([process], seconds=300)
    return subprocess.CompletedProcess(words, code, *said(process))


def succeed(*words: str) -> subprocess.CompletedProcess:
    result = run(*words)
    assert result.returncode == 0, result.stderr
    return result


def refuse(*words: str) -> str:
    """The single error line of a command that must be refused."""
    result = run(*words)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    return lines[0]


def metrics(output: Path) -> list[dict]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("per_second")} for line in lines]


def tensors(output: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    file = output / (output / "last").read_text().strip() / name
    return {key: tensor.clone() for key, tensor in load_file(file).items()}  # load_file maps the file: copy


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def assert_same_run(a: Path, b: Path) -> None:
    assert metrics(a) == metrics(b)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert_equal(tensors(a, name), tensors(b, name))


def wait_for_step(output: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        file = output / "metrics.jsonl"
        if file.exists() and file.read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{output} never reached step {step}")
