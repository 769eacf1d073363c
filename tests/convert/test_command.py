"""`albert-fast convert`: command line, vocabulary, classifiers, and outputs that are never overwritten."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.albert_pytorch import seed
from support.commands import refused
from support.conversions import SIZES, assert_equal_outputs, fixture, google, huggingface, run

from albert_fast.cli import main
from albert_fast.config import AlbertConfig
from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix, config, outputs = fixture("google")
    flags = ["convert", str(prefix), "--config", str(config), "--check", str(outputs), "--share-type", "ffn"]
    main([*flags, "--output", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "all_encoder_layers layer 4" in said
    assert "skipped slots and averages: adam_m of 32 variables, adam_v of 32 variables" in said
    assert AlbertForPreTraining.from_pretrained(tmp_path / "out").config.share_type == "ffn"
    lines = refused(capsys, *flags, "--output", str(tmp_path / "other"), "--tolerance", "1e-9").splitlines()
    assert [line.startswith("note: no vocabulary") for line in lines] == [True, False]
    assert not (tmp_path / "other").exists()


def test_classifier_round_trip(tmp_path: Path) -> None:
    stated = transformers.AlbertConfig(**SIZES, num_hidden_layers=3, max_position_embeddings=40, num_labels=3)
    torch.manual_seed(4)
    theirs = transformers.AlbertForSequenceClassification(stated).eval()
    theirs.save_pretrained(tmp_path / "hf")
    convert(ConvertOptions(checkpoint=str(tmp_path / "hf"), output=str(tmp_path / "ours"), share_type="None"))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
    wordpiece_tokenizer(tokens).save(tmp_path / "ours")
    ours = AlbertForSequenceClassification.from_pretrained(tmp_path / "ours")
    convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "back"), to="huggingface"))
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    ids = torch.tensor([ours.tokenizer.encode_pair("w1 w2", "w3", 40)[0]])
    types = torch.tensor([ours.tokenizer.encode_pair("w1 w2", "w3", 40)[1]])
    expected = theirs(input_ids=ids, token_type_ids=types).logits
    torch.testing.assert_close(back(input_ids=ids, token_type_ids=types).logits, expected, atol=1e-5, rtol=0)
    probabilities = ours.predict([("w1 w2", "w3")])[0].probabilities
    assert list(probabilities) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert list(probabilities.values()) == pytest.approx(expected.softmax(-1)[0].tolist(), abs=1e-5)
    assert back.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_classifiers_of_tensorflow_and_albert_pytorch(
    tmp_path: Path, recorded_variables: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = {name: value for name, value in recorded_variables.items() if not name.startswith("cls/")}
    head = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    prefix = google(tmp_path, backbone | {"output_weights": head, "output_bias": np.ones(3, np.float32)})
    convert(ConvertOptions(checkpoint=str(prefix), output=str(tmp_path / "tf")))
    np.testing.assert_array_equal(load_file(tmp_path / "tf" / "model.safetensors")["classifier.weight"].numpy(), head)
    assert "the config names no classes; using 0, 1, 2" in capsys.readouterr().out
    state = seed(tmp_path / "seed").state()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("cls.")}
    state |= {"classifier.weight": torch.randn(2, 16), "classifier.bias": torch.randn(2)}
    torch.save(state, tmp_path / "seed" / "pytorch_model.bin")
    convert(ConvertOptions(checkpoint=str(tmp_path / "seed"), output=str(tmp_path / "ours")))
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert torch.equal(written["classifier.weight"], state["classifier.weight"])


def test_the_output_is_never_overwritten(tmp_path: Path) -> None:
    huggingface(tmp_path / "hf")
    with pytest.raises(UserError, match="not an empty folder"):
        run(tmp_path / "hf", tmp_path / "hf")
    (tmp_path / "ours").mkdir()
    run(tmp_path / "hf", tmp_path / "ours")


def test_a_failed_conversion_creates_and_removes_nothing(tmp_path: Path) -> None:
    model = AlbertForPreTraining(AlbertConfig(**SIZES, num_hidden_layers=2, layout="zh"))
    model.save_pretrained(tmp_path / "ours")
    mine = tmp_path / "hf.partial" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError):
        convert(ConvertOptions(checkpoint=str(tmp_path / "ours"), output=str(tmp_path / "hf"), to="huggingface"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf.partial", "ours"]
    assert mine.exists()


def test_the_vocabulary_is_included(tmp_path: Path) -> None:
    huggingface(tmp_path / "hf")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
    vocabulary = tmp_path / "any_name.txt"
    vocabulary.write_text("\n".join(tokens))
    run(tmp_path / "hf", tmp_path / "ours", vocab=str(vocabulary))
    assert (tmp_path / "ours" / "vocab.txt").read_text().split() == tokens
    shutil.copyfile(vocabulary, tmp_path / "hf" / "vocab.txt")
    run(tmp_path / "hf", tmp_path / "beside")
    assert (tmp_path / "beside" / "tokenizer.json").is_file()
    vocabulary.write_text("\n".join([*tokens, "one_more"]))
    with pytest.raises(UserError, match=r"51 tokens, more than the checkpoint's vocab_size=50"):
        run(tmp_path / "hf", tmp_path / "wrong", vocab=str(vocabulary))


def test_dropout_of_the_config_is_off_in_evaluation(tmp_path: Path) -> None:
    theirs = huggingface(tmp_path / "hf", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    assert_equal_outputs(run(tmp_path / "hf", tmp_path / "ours"), theirs)
