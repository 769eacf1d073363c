"""Checkpoints written by other projects, conversions of them, and comparison of the outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.bundles import write_bundle
from torch import Tensor, nn

from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.model import AlbertForPreTraining

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
CASES = {
    "zh-postln": ("tf_zh", "albert_config.json", "outputs.npz"),
    "zh-preln": ("tf_zh", "albert_config_preln.json", "outputs_preln.npz"),
    "google": ("tf_google", "albert_config.json", "outputs.npz"),
}
SHARE_TYPES = ["all", "ffn", "attention", "None"]
SIZES = {"vocab_size": 50, "embedding_size": 8, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def fixture(name: str) -> tuple[Path, Path, Path]:
    """(prefix, config, outputs) of a checkpoint written and evaluated by the original TensorFlow code."""
    folder, config, outputs = CASES[name]
    if not FIXTURES.is_dir():
        pytest.skip(f"{FIXTURES} with the recorded outputs of TensorFlow is missing")
    return FIXTURES / folder / "albert_model.ckpt", FIXTURES / folder / config, FIXTURES / folder / outputs


def run(checkpoint: Path, output: Path, **options: Any) -> AlbertForPreTraining:
    """Convert to `output` and load the result."""
    convert(ConvertOptions(checkpoint=str(checkpoint), output=str(output), **options))
    return AlbertForPreTraining.from_pretrained(output).eval()


def inputs(vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids, attention_mask, token_type_ids) [3, 11] with lengths 11, 4 and 7."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(vocab_size, (3, 11), generator=generator)
    mask = (torch.arange(11) < torch.tensor([[11], [4], [7]])).long()
    return ids * mask, mask, torch.randint(2, (3, 11), generator=generator) * mask


def google(tmp_path: Path, variables: dict[str, np.ndarray], **config: int) -> Path:
    """Write a checkpoint of `variables` with the modified config of the fixture; returns its prefix."""
    write_bundle(tmp_path / "model.ckpt", variables)
    stated = json.loads(fixture("google")[1].read_text())
    (tmp_path / "albert_config.json").write_text(json.dumps(stated | config))
    return tmp_path / "model.ckpt"


def huggingface(directory: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> nn.Module:
    """A HuggingFace ALBERT saved in `directory`, with random noise in every parameter (also biases and LayerNorm)."""
    stated = transformers.AlbertConfig(**(SIZES | {"num_hidden_layers": 4, "max_position_embeddings": 40} | config))
    torch.manual_seed(seed)
    model = transformers.AlbertForPreTraining(stated).eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(directory)
    return model


def assert_equal_outputs(ours: AlbertForPreTraining, theirs: nn.Module, atol: float = 1e-5) -> None:
    ids, mask, types = inputs(50)
    with torch.no_grad():
        actual = ours(ids, mask, types, output_hidden_states=True)
        expected = theirs(
            input_ids=ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True, return_dict=True
        )
    real = mask.bool()
    assert actual.hidden_states is not None
    inner = ours.config.inner_group_num  # HuggingFace also records the inner layers
    for a, e in zip(actual.hidden_states, expected.hidden_states[::inner], strict=True):
        torch.testing.assert_close(a[real], e[real], atol=atol, rtol=0)
    for name in ("prediction_logits", "sop_logits"):
        a, e = getattr(actual, name), getattr(expected, name)
        a, e = (a[real], e[real]) if a.dim() == 3 else (a, e)
        torch.testing.assert_close(a, e, atol=atol, rtol=0)
