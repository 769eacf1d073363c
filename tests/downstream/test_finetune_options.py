"""Invalid flags and files are refused before anything is written."""

from pathlib import Path
from typing import Any

import pytest
from support.finetuning import options, run, sentences

from albert_fast.options import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_length": 64}, "max_seq_length=64 exceeds the model's max_position_embeddings=32"),
        ({"epochs": 0}, "epochs=0 must be 1 or more"),
        ({"max_grad_norm": -1.0, "train": "absent.tsv"}, r"max_grad_norm=-1\.0 must be 0 or more"),
        ({"train": "absent.tsv"}, "absent.tsv: No such file"),
        ({"model": "absent"}, "absent/model.safetensors"),
        ({"dev": "OTHER"}, r"line 1: label 'is maybe' is not a class; use one of is no, is yes"),
        ({"train": "OTHER", "dev": "OTHER"}, "every label is 'is maybe'"),
    ],
    ids=["length", "epochs", "norm", "file", "model", "label", "one-class"],
)
def test_bad_input_is_refused(pretrained: Path, changes: dict[str, Any], message: str) -> None:
    other = sentences(pretrained.parent / "other.tsv", 5, 5, ("maybe",))
    changes = {name: str(other) if value == "OTHER" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message):
        run(options(pretrained, **changes))
    assert not (pretrained.parent / "run").exists()
