"""PyTorch checkpoints of HuggingFace, albert_pytorch and albert_fast, detected from their weight names."""

from pathlib import Path

import pytest
import torch
from support.albert_pytorch import seed
from support.conversions import SHARE_TYPES, assert_equal_outputs, huggingface, inputs, run

from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.options import UserError


def test_huggingface_from_an_old_bin_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = huggingface(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    state = theirs.state_dict() | {"albert.embeddings.position_ids": torch.arange(40)[None]}
    torch.save(state, tmp_path / "hf" / "pytorch_model.bin")
    assert_equal_outputs(run(tmp_path / "hf", tmp_path / "ours"), theirs)
    said = capsys.readouterr().out
    assert "predictions.decoder.weight equals" in said
    assert "skipped albert.embeddings.position_ids" in said


def test_huggingface_without_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = huggingface(tmp_path / "hf")
    theirs.albert.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"missing predictions.bias, .*sop_classifier.classifier.bias.*--new_heads"):
        run(tmp_path / "bare", tmp_path / "ours")
    ours = run(tmp_path / "bare", tmp_path / "ours", new_heads=True)
    assert "sop_head.weight" in capsys.readouterr().err
    ids, mask, types = inputs(50)
    expected = theirs.albert(input_ids=ids, attention_mask=mask, token_type_ids=types).pooler_output
    torch.testing.assert_close(ours(ids, mask, types).pooler_output, expected, atol=1e-5, rtol=0)
    convert(ConvertOptions(checkpoint=str(tmp_path / "bare"), output=str(tmp_path / "again"), new_heads=True))
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


@pytest.mark.parametrize("embedding_size", [8, 16], ids="E{}".format)
@pytest.mark.parametrize("ln_type", ["postln", "preln"])
@pytest.mark.parametrize("share_type", SHARE_TYPES)
def test_albert_pytorch(share_type: str, ln_type: str, embedding_size: int, tmp_path: Path) -> None:
    theirs = seed(tmp_path / "seed", share_type=share_type, ln_type=ln_type, embedding_size=embedding_size)
    ours = run(tmp_path / "seed", tmp_path / "ours")
    assert (ours.config.share_type, ours.config.hidden_act, ours.config.layout) == (share_type, "gelu", "zh")
    ids, mask, types = inputs(50)
    with torch.no_grad():
        states, prediction_logits, sop_logits = theirs(ids, mask, types)
        actual = ours(ids, mask, types, output_hidden_states=True)
    real = mask.bool()
    assert actual.hidden_states is not None
    for a, e in zip(actual.hidden_states, states, strict=True):
        torch.testing.assert_close(a[real], e[real], atol=2e-5, rtol=0)
    torch.testing.assert_close(actual.prediction_logits[real], prediction_logits[real], atol=2e-5, rtol=0)
    torch.testing.assert_close(actual.sop_logits, sop_logits, atol=2e-5, rtol=0)


def test_albert_pytorch_untied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = seed(tmp_path / "seed")
    state = model.state()
    run(tmp_path / "seed", tmp_path / "tied")
    said = capsys.readouterr().out
    assert "cls.predictions.decoder.weight equals bert.embeddings.word_embeddings.weight" in said
    assert "cls.predictions.project_layer.weight equals the transpose of" in said
    state["cls.predictions.project_layer.weight"] += 0.25
    old_names = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in state.items()}
    torch.save({f"module.{name}": value for name, value in old_names.items()}, tmp_path / "seed" / "pytorch_model.bin")
    run(tmp_path / "seed", tmp_path / "untied")
    assert "WARNING: cls.predictions.project_layer.weight differs" in capsys.readouterr().out
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("tied", "untied")]
    assert same[0] == same[1]


def test_unsharing_our_own_checkpoint(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path / "hf", num_hidden_groups=2)
    run(tmp_path / "hf", tmp_path / "ours")
    for share_type in SHARE_TYPES:
        model = run(tmp_path / "ours", tmp_path / share_type, share_type=share_type)
        assert_equal_outputs(model, theirs)
    with pytest.raises(UserError, match="different"):
        run(tmp_path / "None", tmp_path / "again", share_type="ffn")
    with pytest.raises(UserError, match="share_type='some' is unknown"):
        run(tmp_path / "ours", tmp_path / "again", share_type="some")
