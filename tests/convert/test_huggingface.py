"""Import from and export to HuggingFace, and rejection of models that HuggingFace cannot compute."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.albert_pytorch import SIZES
from support.conversions import SHARE_TYPES, assert_equal_outputs, huggingface, run

from albert_fast.config import AlbertConfig
from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError

GROUPS = {"one": {}, "groups": {"num_hidden_groups": 2}, "inner": {"num_hidden_groups": 4, "inner_group_num": 2}}


@pytest.mark.parametrize("act", ["gelu_new", "gelu"])
@pytest.mark.parametrize("groups", GROUPS)
def test_huggingface_round_trip(groups: str, act: str, tmp_path: Path) -> None:
    theirs = huggingface(tmp_path / "hf", hidden_act=act, **GROUPS[groups])
    ours = run(tmp_path / "hf", tmp_path / "ours")
    assert ours.config.layout == "google"
    assert_equal_outputs(ours, theirs)
    convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "back"), to="huggingface"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
    again = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "back")
    for (name, a), (_, b) in zip(theirs.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    stated = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "back")]
    assert stated[0] == stated[1]


def test_bfloat16_round_trip(tmp_path: Path) -> None:
    huggingface(tmp_path / "hf", dtype=torch.bfloat16)
    run(tmp_path / "hf", tmp_path / "ours")
    convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "back"), to="huggingface"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.bfloat16 for name in before)


@pytest.mark.parametrize("share_type", SHARE_TYPES)
@pytest.mark.parametrize("inner", [1, 2], ids="inner{}".format)
def test_export_of_every_share_type(share_type: str, inner: int, tmp_path: Path) -> None:
    groups = {"num_hidden_groups": 2, "inner_group_num": inner}
    config = AlbertConfig.from_preset("tiny", **SIZES, layout="google", share_type=share_type, **groups)
    torch.manual_seed(1)
    ours = AlbertForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    ours.save_pretrained(tmp_path / "ours")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "我", *(f"x{i}" for i in range(40))]
    wordpiece_tokenizer(tokens).save(tmp_path / "ours")
    convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "hf"), to="huggingface"))
    theirs = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "hf")
    assert_equal_outputs(ours, theirs.eval())
    assert theirs.config.pad_token_id == 0
    assert transformers.AutoModel.from_pretrained(tmp_path / "hf").config.model_type == "albert"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer("the cats我", "cat")["input_ids"] == [2, 5, 6, 7, 8, 3, 6, 3]
    assert tokenizer("the cats", "cat")["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"layout": "zh"}, "before the projection"), ({"ln_type": "preln"}, "post-LN")],
    ids=["zh", "preln"],
)
def test_unsupported_exports_are_refused(change: dict[str, str], reason: str, tmp_path: Path) -> None:
    config = AlbertConfig.from_preset("tiny", **SIZES, **({"layout": "google"} | change))
    AlbertForPreTraining(config).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=reason):
        convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "hf"), to="huggingface"))
    assert not (tmp_path / "hf").exists()


def test_groups_that_huggingface_rounds_differently(tmp_path: Path) -> None:
    """With 18 layers in 14 groups, HuggingFace assigns some layers to other groups than Google's code and ours."""
    sizes = {"num_hidden_layers": 18, "num_hidden_groups": 14}
    theirs = huggingface(tmp_path / "hf", **sizes)
    with pytest.raises(UserError, match="use --share_type None"):
        run(tmp_path / "hf", tmp_path / "ours")
    assert_equal_outputs(run(tmp_path / "hf", tmp_path / "ours", share_type="None"), theirs, atol=5e-5)
