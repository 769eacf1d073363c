"""Wrapper prefixes and the dictionaries of training frameworks are removed from around a model."""

import itertools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import huggingface_weights, write_huggingface

from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.convert.unwrap import unwrap
from albert_fast.options import UserError
from albert_fast.pretrained import read_weights

FILE = Path("file")
WEIGHTS = huggingface_weights()


def prefixed(prefix: str, weights: dict[str, torch.Tensor] = WEIGHTS) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = WEIGHTS) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("order", list(itertools.permutations(["module.", "_orig_mod.", "model."])), ids="".join)
def test_prefixes_in_any_order(order: tuple[str, ...]) -> None:
    for count in range(1, 4):
        found, remarks = unwrap(prefixed("".join(order[:count])), FILE)
        assert_same(found)
        assert all(prefix in remarks[0] for prefix in order[:count])


def test_wrappers_inside_names_and_other_holders() -> None:
    inside = {name.replace("encoder.", "encoder._orig_mod.", 1): tensor for name, tensor in WEIGHTS.items()}
    assert_same(unwrap(inside, FILE)[0])
    assert_same(unwrap(prefixed("net.backbone."), FILE)[0])
    head = {"classifier.weight": torch.ones(2, 16)}
    assert_same(unwrap(prefixed("model.") | head, FILE)[0], WEIGHTS | head)
    assert unwrap(dict(WEIGHTS), FILE)[1] == []


@pytest.mark.parametrize(
    "held",
    [
        {"state_dict": OrderedDict(prefixed("model.")), "epoch": 3, "optimizer_states": [{"state": {}}]},
        {"model": WEIGHTS, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 1},
        {"checkpoint": {"module": prefixed("module."), "step": torch.tensor(4)}},
        {**WEIGHTS, "epoch": 7, "n_averaged": torch.tensor(5)},
    ],
    ids=["lightning", "nvidia", "nested", "beside"],
)
def test_dictionaries_of_training_frameworks(held: dict[str, Any], tmp_path: Path) -> None:
    assert_same(unwrap(held, FILE)[0])
    folder = write_huggingface(tmp_path / "theirs", held, "last.ckpt")
    convert(ConvertOptions(checkpoint=str(folder), output=str(tmp_path / "ours")))
    ours = read_weights(tmp_path / "ours")
    assert torch.equal(
        ours["albert.embeddings.word_embeddings.weight"], WEIGHTS["albert.embeddings.word_embeddings.weight"]
    )


def test_averages_are_used_on_request() -> None:
    average = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    for held in (
        {"model": WEIGHTS, "model_ema": average},
        prefixed("model.") | prefixed("ema_model.", average),
        {"state_dict": prefixed("model.") | prefixed("swa.", average)},
    ):
        assert_same(unwrap(held, FILE)[0])
        assert_same(unwrap(held, FILE, use_averages=True)[0], average)
    assert_same(unwrap({"ema": average}, FILE)[0], average)
    with pytest.raises(UserError, match="contains no average of the weights"):
        unwrap({"model": WEIGHTS}, FILE, use_averages=True)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"student": WEIGHTS, "teacher": WEIGHTS}, "file contains several models, student, teacher"),
        (prefixed("student.") | prefixed("teacher."), r"file contains several models, student\., teacher\."),
        ({"step": 3, "optimizer": {}}, r"not a state dict of an ALBERT \(content: step, optimizer\)"),
        ([1, 2], r"not a state dict of an ALBERT \(content: list\)"),
        (dict(WEIGHTS) | prefixed("module."), "names collide"),
    ],
    ids=["two", "two-prefixes", "none", "list", "twice"],
)
def test_what_is_not_one_model_is_refused(held: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        unwrap(held, FILE)
