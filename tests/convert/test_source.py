"""Checkpoints with a projection although E == H, and with unshared layers."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.bundles import write_bundle
from support.conversions import fixture, run

from albert_fast.convert.tensor_bundle import TensorBundle
from albert_fast.options import UserError


def test_zh_without_factorisation_folds_the_projection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """albert_zh multiplies by word_embeddings_2 even if E == H; our zh layout then has no projection."""
    prefix, config, outputs = fixture("zh-postln")
    bundle = TensorBundle(prefix)
    variables = {name: bundle.read(name) for name in bundle.entries if "lamb_" not in name}
    word, second = variables["bert/embeddings/word_embeddings"], variables["bert/embeddings/word_embeddings_2"]
    # The same function at E == H: zero-padded word embeddings and projection.
    variables["bert/embeddings/word_embeddings"] = np.pad(word, ((0, 0), (0, 48 - 16)))
    variables["bert/embeddings/word_embeddings_2"] = np.pad(second, ((0, 48 - 16), (0, 0)))
    write_bundle(tmp_path / "model.ckpt", variables)
    (tmp_path / "config.json").write_text(json.dumps(json.loads(config.read_text()) | {"embedding_size": 48}))
    model = run(tmp_path / "model.ckpt", tmp_path / "out", check=str(outputs))
    assert "albert.embeddings.projection.weight" not in model.state_dict()
    assert "multiplied into the word embeddings" in capsys.readouterr().out


def test_zh_with_unshared_layers(tmp_path: Path) -> None:
    prefix, config, outputs = fixture("zh-preln")
    bundle = TensorBundle(prefix)
    variables = {}
    for name in bundle.entries:
        for layer in range(3) if "layer_shared" in name else [0]:
            variables[name.replace("layer_shared", f"layer_{layer}")] = bundle.read(name)
    write_bundle(tmp_path / "model.ckpt", variables)
    model = run(tmp_path / "model.ckpt", tmp_path / "out", config=str(config), check=str(outputs))
    assert model.config.share_type == "None"
    with pytest.raises(UserError, match=r"have different weights; .* use --share_type None"):
        run(tmp_path / "model.ckpt", tmp_path / "other", config=str(config), share_type="all")
