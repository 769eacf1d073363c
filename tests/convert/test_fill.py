"""Heads that ours have not are refused, and the model below them is taken by the flag that the message names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import google_variables, huggingface_weights, write_google, write_huggingface
from torch import Tensor

from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.options import UserError
from albert_fast.pretrained import read_weights

WEIGHTS = huggingface_weights()
BACKBONE = {name: tensor for name, tensor in WEIGHTS.items() if name.startswith("albert.")}
NO_POOLER = {name: tensor for name, tensor in BACKBONE.items() if "pooler" not in name}


def linear(name: str, outputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(outputs, 16), f"{name}.bias": torch.randn(outputs)}


HEADS: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "ner": (NO_POOLER | linear("classifier", 5), {"architectures": ["AlbertForTokenClassification"]}, "TokenClass"),
    "ner-unnamed": (NO_POOLER | linear("classifier", 5), {}, "a classifier (5 classes) but no pooler"),
    "qa": (NO_POOLER | linear("qa_outputs", 2), {"architectures": ["AlbertForQuestionAnswering"]}, "(qa_outputs."),
    "qa-unnamed": (NO_POOLER | linear("qa_outputs", 2), {}, "holds, unused, qa_outputs.weight, qa_outputs.bias"),
    "choice": (BACKBONE | linear("classifier", 1), {"architectures": ["AlbertForMultipleChoice"]}, "MultipleChoice"),
    "regression": (BACKBONE | linear("classifier", 1), {}, "its head is a regression"),
    "labels": (
        BACKBONE | linear("classifier", 4), {"problem_type": "multi_label_classification"}, "multi_label_classification"
    ),
}  # fmt: skip


@pytest.mark.parametrize("new_heads", [False, True], ids=["plain", "new_heads"])
@pytest.mark.parametrize("kind", HEADS)
def test_heads_that_ours_have_not(kind: str, new_heads: bool, tmp_path: Path) -> None:
    weights, config, message = HEADS[kind]
    theirs = write_huggingface(tmp_path / "theirs", weights, **config)
    flags = {"checkpoint": str(theirs), "output": str(tmp_path / "ours")}
    with pytest.raises(UserError) as error:
        convert(ConvertOptions(**flags, new_heads=new_heads))
    assert message in str(error.value)
    assert "use --backbone to take the model below its heads" in str(error.value)
    assert not (tmp_path / "ours").exists()
    convert(ConvertOptions(**flags, backbone=True))
    ours = read_weights(tmp_path / "ours")
    assert torch.equal(ours["albert.encoder.feed_forward.0.intermediate.weight"], weights[
        "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"
    ])  # fmt: skip
    assert "mlm_head.transform.weight" in ours
    stated = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert not {"architectures", "id2label", "problem_type"} & stated.keys()


def test_a_question_answerer_of_tensorflow(tmp_path: Path) -> None:
    variables = {name: value for name, value in google_variables().items() if not name.startswith("cls/")}
    heads = {
        "start_logits/dense/kernel": torch.randn(16, 1).numpy(),
        "end_logits/dense_0/bias": torch.randn(16).numpy(),
    }
    flags = {"checkpoint": str(write_google(tmp_path / "theirs", variables | heads)), "output": str(tmp_path / "ours")}
    with pytest.raises(UserError, match=r"holds, unused, .*start_logits/dense/kernel; use --backbone"):
        convert(ConvertOptions(**flags))
    convert(ConvertOptions(**flags, backbone=True))
    assert (tmp_path / "ours/model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "backbone", "message"),
    [
        ({"albert.adapter.weight": torch.zeros(3)}, True, r"holds, unused, albert\.adapter\.weight$"),
        ({"albert.pooler.weight": torch.full((16, 16), torch.nan), "predictions.bias": torch.full((50,), torch.inf)},
         False, r"not finite, in albert\.pooler\.weight, predictions\.bias;"),
        ({"albert.pooler.weight": torch.ones(16, 16, dtype=torch.int8)},
         False, r"albert\.pooler\.weight is torch\.int8, as of quantized weights"),
    ],
    ids=["backbone not whole", "not finite", "quantized"],
)  # fmt: skip
def test_weights_that_cannot_be_taken_are_named(
    changes: dict[str, Tensor], backbone: bool, message: str, tmp_path: Path
) -> None:
    theirs = write_huggingface(tmp_path / "theirs", WEIGHTS | changes)
    with pytest.raises(UserError, match=message):
        convert(ConvertOptions(checkpoint=str(theirs), output=str(tmp_path / "ours"), backbone=backbone))
    assert not (tmp_path / "ours").exists()


def test_weights_that_pad_the_vocabulary_of_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NVIDIA's scripts train on a vocabulary padded to a multiple of 8, and leave the config as it was."""
    padded = huggingface_weights(vocab_size=56)
    theirs = write_huggingface(tmp_path / "theirs", padded)
    convert(ConvertOptions(checkpoint=str(theirs), output=str(tmp_path / "ours")))
    assert "the weights pad the config's vocab_size=50 to 56" in capsys.readouterr().out
    stated = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (stated["vocab_size"], stated["real_vocab_size"]) == (56, 50)
    other = write_huggingface(tmp_path / "other", huggingface_weights(vocab_size=57))
    with pytest.raises(UserError, match=r"has shapes .*\[57, 8\], by the config \[50, 8\]"):
        convert(ConvertOptions(checkpoint=str(other), output=str(tmp_path / "refused")))


def test_a_vocabulary_smaller_than_the_config_pads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = write_huggingface(tmp_path / "theirs", WEIGHTS)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(43))]
    (theirs / "vocab.txt").write_text("\n".join(tokens))
    convert(ConvertOptions(checkpoint=str(theirs), output=str(tmp_path / "ours")))
    assert "vocab_size pads the 48 tokens of the vocabulary by 2" in capsys.readouterr().out
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["real_vocab_size"] == 48
