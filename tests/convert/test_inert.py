"""Checkpoints with objects other than tensors are read without importing or calling anything they name."""

import argparse
import collections
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import huggingface_weights, write_huggingface

from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.convert.inert import Inert, load_inert
from albert_fast.pretrained import read_weights


class Attributes(dict):
    """Like the class in which Lightning stores hyper_parameters."""


class Runs:
    """Its pickle writes a file when loaded normally."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.file)!r}, 'w')",)


OTHERS = {
    "namespace": argparse.Namespace(rate=1, inner=argparse.Namespace(names=["a"])),
    "dictionary": Attributes(rate=1),
    "default": collections.defaultdict(list, {1: [2]}),
    "partial": functools.partial(print, 1),
    "numpy": [np.float64(3), np.arange(3)],
    "optimizer": torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1),
}


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", OTHERS)
def test_weights_beside_other_objects(kind: str, as_zip: bool, tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    weights = {"w": torch.arange(3.0), "b": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))}
    torch.save({"hyper_parameters": OTHERS[kind], "state_dict": weights}, file, _use_new_zipfile_serialization=as_zip)
    held = load_inert(file)["state_dict"]
    assert torch.equal(held["w"], weights["w"])
    assert torch.equal(held["b"], weights["b"])
    assert held["b"].dtype == torch.bfloat16


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "last.ckpt", tmp_path / "trace"
    torch.save({"state_dict": {"w": torch.ones(1)}, "callbacks": Runs(trace)}, file)
    assert isinstance(load_inert(file)["callbacks"], Inert)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # a normal load does run it


def test_a_checkpoint_of_lightning_is_converted(tmp_path: Path) -> None:
    weights = huggingface_weights()
    held = {
        "pytorch-lightning_version": "1.9.5",
        "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()},
        "hyper_parameters": Attributes(rate=1, model=argparse.Namespace(name="albert")),
        "optimizer_states": [OTHERS["default"]],
    }
    theirs = write_huggingface(tmp_path / "theirs", held, "last.ckpt")
    convert(ConvertOptions(checkpoint=str(theirs), output=str(tmp_path / "ours")))
    word = "albert.embeddings.word_embeddings.weight"
    assert torch.equal(read_weights(tmp_path / "ours")[word], weights[word])
