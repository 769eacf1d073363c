"""Cost and requirements of imports, in new processes; the public names and their example."""

import itertools
import subprocess
import sys
from dataclasses import replace
from textwrap import dedent

import pytest
import torch
from support.steps import LENGTH, VOCABULARY, make_batch

import albert_fast
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.demo import python_topics

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "albert_fast._loader":
            raise ImportError("the extension is not built")
sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_model_needs_no_compiled_extension():
    code = BLOCKED + (
        "from albert_fast.config import AlbertConfig\n"
        "from albert_fast.model import AlbertForPreTraining\n"
        "print(sum(p.numel() for p in AlbertForPreTraining(AlbertConfig.from_preset('tiny')).parameters()))\n"
        "try:\n    import albert_fast.data.batches\nexcept ImportError as error:\n    print(error)\n"
    )
    parameters, error = run(code).splitlines()
    assert int(parameters) > 1_000_000
    assert error == "the extension is not built"


def test_public_names_are_imported_on_first_use():
    assert {getattr(albert_fast, name).__name__ for name in albert_fast.__all__} == set(albert_fast.__all__)
    assert set(albert_fast.__all__) <= set(dir(albert_fast))
    with pytest.raises(AttributeError, match="no attribute 'AlbertForTranslation'"):
        albert_fast.AlbertForTranslation  # noqa: B018


def test_the_packages_example_runs_and_learns(tmp_path, monkeypatch):
    text = "\n\n".join(python_topics().split("\n\n")[:60])
    (tmp_path / "text.txt").write_text(text)
    prepare(
        PrepareOptions(input=(str(tmp_path / "text.txt"),), output=str(tmp_path / "shards"), train_vocab=600, workers=1)
    )
    monkeypatch.chdir(tmp_path)
    example = dedent(albert_fast.__doc__.partition("\n\n    ")[2].join(("    ", "")))
    names = {name: getattr(albert_fast, name) for name in albert_fast.__all__} | dict(torch=torch, itertools=itertools)
    torch.manual_seed(0)
    exec(example, names)
    model, batch = names["model"], names["batch"]
    untrained = albert_fast.AlbertForPreTraining(model.config)
    with torch.no_grad():
        assert model.losses(batch).loss < untrained.losses(batch).loss - 0.1
    names["loader"].close()


def test_dropout_depends_on_the_batch_and_only_acts_in_training():
    config = albert_fast.AlbertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, embedding_size=8,
        vocab_size=VOCABULARY, max_position_embeddings=LENGTH, hidden_dropout_prob=0.2,
    )  # fmt: skip
    model, batch = albert_fast.AlbertForPreTraining(config), make_batch(1)
    torch.manual_seed(5)
    first, repeated, other = (model.losses(b).loss for b in (batch, batch, replace(batch, index=2)))
    assert first == repeated != other
    model.eval()
    evaluated = model.losses(batch).loss
    assert evaluated == model.losses(replace(batch, index=2)).loss != first
