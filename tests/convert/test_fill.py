"""Unsupported heads are refused, and --backbone, which the message suggests, converts the rest of the model."""

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
    "qa-unnamed": (NO_POOLER | linear("qa_outputs", 2), {}, "unused qa_outputs.weight, qa_outputs.bias"),
    "choice": (BACKBONE | linear("classifier", 1), {"architectures": ["AlbertForMultipleChoice"]}, "MultipleChoice"),
    "regression": (BACKBONE | linear("classifier", 1), {}, "its head is a regression"),
    "labels": (
        BACKBONE | linear("classifier", 4), {"problem_type": "multi_label_classification"}, "multi_label_classification"
    ),
}  # fmt: skip


@pytest.mark.parametrize("new_heads", [False, True], ids=["plain", "new_heads"])
@pytest.mark.parametrize("kind", HEADS)
def test_unsupported_heads(kind: str, new_heads: bool, tmp_path: Path) -> None:
    weights, config, message = HEADS[kind]
    theirs = write_huggingface(tmp_path / "theirs", weights, **config)
    flags = {"checkpoint": str(theirs), "output": str(tmp_path / "ours")}
    with pytest.raises(UserError) as error:
        convert(ConvertOptions(**flags, new_heads=new_heads))
    assert message in str(error.value)
    assert "use --backbone to convert the model without its heads" in str(error.value)
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
    with pytest.raises(UserError, match=r"unused .*start_logits/dense/kernel; use --backbone"):
        convert(ConvertOptions(**flags))
    convert(ConvertOptions(**flags, backbone=True))
    assert (tmp_path / "ours/model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "backbone", "message"),
    [
        ({"albert.adapter.weight": torch.zeros(3)}, True, r"unused albert\.adapter\.weight$"),
        ({"albert.pooler.weight": torch.full((16, 16), torch.nan), "predictions.bias": torch.full((50,), torch.inf)},
         False, r"not finite, in albert\.pooler\.weight, predictions\.bias;"),
        ({"albert.pooler.weight": torch.ones(16, 16, dtype=torch.int8)},
         False, r"albert\.pooler\.weight is torch\.int8, probably quantized"),
    ],
    ids=["foreign weight", "not finite", "quantized"],
)  # fmt: skip
def test_unusable_weights_are_named(changes: dict[str, Tensor], backbone: bool, message: str, tmp_path: Path) -> None:
    theirs = write_huggingface(tmp_path / "theirs", WEIGHTS | changes)
    with pytest.raises(UserError, match=message):
        convert(ConvertOptions(checkpoint=str(theirs), output=str(tmp_path / "ours"), backbone=backbone))
    assert not (tmp_path / "ours").exists()


def test_weights_with_a_padded_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NVIDIA's scripts pad the vocabulary to a multiple of 8 without updating the config."""
    padded = huggingface_weights(vocab_size=56)
    theirs = write_huggingface(tmp_path / "theirs", padded)
    convert(ConvertOptions(checkpoint=str(theirs), output=str(tmp_path / "ours")))
    assert "the weights are padded from the config's vocab_size=50 to 56" in capsys.readouterr().out
    stated = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (stated["vocab_size"], stated["real_vocab_size"]) == (56, 50)
    other = write_huggingface(tmp_path / "other", huggingface_weights(vocab_size=57))
    with pytest.raises(UserError, match=r"wrong shapes .*\[57, 8\] instead of \[50, 8\]"):
        convert(ConvertOptions(checkpoint=str(other), output=str(tmp_path / "refused")))


def test_a_vocabulary_smaller_than_the_config_is_padded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = write_huggingface(tmp_path / "theirs", WEIGHTS)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(43))]
    (theirs / "vocab.txt").write_text("\n".join(tokens))
    convert(ConvertOptions(checkpoint=str(theirs), output=str(tmp_path / "ours")))
    assert "vocab_size is padded: 48 tokens in the vocabulary, 2 unused" in capsys.readouterr().out
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["real_vocab_size"] == 48
