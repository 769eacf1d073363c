"""Mask filling and text embeddings agree with running the model directly."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.commands import refused

from albert_fast.cli import main
from albert_fast.config import AlbertConfig
from albert_fast.data.load_tokenizer import load_tokenizer, wordpiece_tokenizer
from albert_fast.downstream import predict
from albert_fast.downstream.predict import fill_masks, vectors_of
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "天", "气", "好"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 16, "embedding_size": 8, "intermediate_size": 24, "num_attention_heads": 2}
    torch.manual_seed(2)
    config = AlbertConfig(**sizes, num_hidden_layers=2, vocab_size=len(TOKENS), max_position_embeddings=12)
    model = AlbertForPreTraining(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(tmp_path / "model")
    wordpiece_tokenizer(TOKENS).save(tmp_path / "model")
    return tmp_path / "model"


def test_fill_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fill-mask", "--model", str(folder), "--text", "天[MASK]好", "the [MASK]s [MASK]", "--top", "3", "--json"])
    said = json.loads(capsys.readouterr().out)
    model, tokenizer = AlbertForPreTraining.from_pretrained(folder), load_tokenizer(folder)
    ids = torch.tensor([[2, 5, 4, tokenizer.encode("s")[0], 4, 3]])
    expected = model(ids).prediction_logits[0, [2, 4]].softmax(-1)
    assert [len(row["masks"]) for row in said] == [1, 2]
    for gap, row in zip(said[1]["masks"], expected, strict=True):
        best = row.topk(3)
        assert list(gap) == [TOKENS[i] for i in best.indices.tolist()]
        assert list(gap.values()) == pytest.approx(best.values.tolist(), abs=1e-6)
    main(["fill-mask", "--model", str(folder), "--text", "天[MASK]好"])
    assert fill_masks(model, tokenizer, "天[MASK]好")[0][0][0] in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has no \[MASK\]"):
        fill_masks(model, tokenizer, "the cat")
    with pytest.raises(UserError, match="exceeds the model's max_position_embeddings=12"):
        fill_masks(model, tokenizer, "the " * 12 + "[MASK]")


@pytest.mark.parametrize("pooling", ["mean", "pooled"])
def test_embed(folder: Path, pooling: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["the cats sat", "", "天气好\u2028天", "the " * 30]
    (folder.parent / "lines.txt").write_text("\n".join(lines) + "\n")
    output = folder.parent / "vectors.npy"
    flags = ["--input", str(folder.parent / "lines.txt"), "--output", str(output), "--pooling", pooling]
    main(["embed", "--model", str(folder), *flags, "--batch-size", "3"])
    vectors = np.load(output)
    assert vectors.shape == (4, 16)
    assert vectors.dtype == np.float32
    model, tokenizer = AlbertForPreTraining.from_pretrained(folder), load_tokenizer(folder)
    for line, vector in zip(lines, vectors, strict=True):
        ids, _ = tokenizer.encode_pair(line, None, 12)
        with torch.no_grad():
            result = model(torch.tensor([ids]))
        expected = result.pooler_output[0] if pooling == "pooled" else result.last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, expected.numpy(), atol=2e-6)


def test_a_pretraining_run_can_be_used_as_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder.parent / "run"
    run.mkdir()
    folder.rename(run / "checkpoint-7")
    (run / "last").write_text("checkpoint-7\n")
    main(["fill-mask", "--model", str(run), "--text", "天[MASK]好"])
    assert "[MASK] 1" in capsys.readouterr().out


def test_embed_takes_texts_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "lines.txt").write_text("the cats sat\n天气好\n")
    flags = ["embed", "--model", str(folder), "--output"]
    main([*flags, str(folder.parent / "a.npy"), "--input", str(folder.parent / "lines.txt")])
    main([*flags, str(folder.parent / "b.npy"), "--text", "the cats sat", "天气好"])
    np.testing.assert_array_equal(np.load(folder.parent / "a.npy"), np.load(folder.parent / "b.npy"))
    for more in ([], ["--input", "x", "--text", "y"]):
        assert "either --input FILE (one per line) or --text" in refused(capsys, *flags, "c.npy", *more)


def test_an_interrupted_embed_keeps_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = folder.parent / "vectors.npy"
    flags = ["embed", "--model", str(folder), "--output", str(output), "--batch-size", "1", "--text"]
    main([*flags, "the cats sat"])
    before, held, batches = output.read_bytes(), set(output.parent.iterdir()), []

    def stopped_at_the_second(*inputs: Any) -> torch.Tensor:
        batches.append(inputs)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return vectors_of(*inputs)

    monkeypatch.setattr(predict, "vectors_of", stopped_at_the_second)
    with pytest.raises(SystemExit, match="130"):
        main([*flags, "the cats", "sat"])
    assert output.read_bytes() == before
    assert set(output.parent.iterdir()) == held


def test_the_text_is_neither_wrapped_nor_parsed_as_markup(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "see [link] and [/b] [MASK]"
    main(["fill-mask", "--model", str(folder), "--text", text])
    assert capsys.readouterr().out.split("\n")[0] == text


def test_small_probabilities_are_not_zero(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A decoder that is nearly certain leaves less than 0.001 for the other tokens."""
    weights = load_file(folder / "model.safetensors")
    weights["mlm_head.bias"][5] += 30
    save_file(weights, folder / "model.safetensors")
    main(["fill-mask", "--model", str(folder), "--text", "[MASK]"])
    said = capsys.readouterr().out
    assert "1.000" in said
    assert "0.000" not in said
    assert "e-" in said


def test_a_run_without_a_checkpoint_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "run").mkdir()
    (folder.parent / "run" / "options.json").write_text("{}")
    run = str(folder.parent / "run")
    for arguments in (["fill-mask", "--text", "[MASK]"], ["embed", "--text", "a", "--output", "x.npy"]):
        message = refused(capsys, *arguments, "--model", run)
        assert f"{run} is a pretraining run without a checkpoint yet" in message


def test_evaluating_a_model_without_a_classifier_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "test.tsv").write_text("the cat\n")
    said = refused(capsys, "evaluate", "--model", str(folder), "--test", str(folder.parent / "test.tsv"))
    assert "not a classifier: its config names no classes" in said
    assert "id2label" not in said


def test_weights_that_are_not_finite_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["albert.pooler.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    for arguments in (["fill-mask", "--text", "[MASK]"], ["embed", "--text", "a", "--output", "x.npy"]):
        assert "not finite, in albert.pooler.weight" in refused(capsys, *arguments, "--model", str(folder))


def test_one_line_and_exit_code_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["embed", "--model", str(folder), "--input", "absent.txt", "--output", "x.npy"],
        ["embed", "--model", "absent", "--input", "absent.txt", "--output", "x.npy"],
        ["fill-mask", "--model", str(folder), "--text", "nothing to fill"],
        ["evaluate", "--model", str(folder), "--test", "absent.tsv"],
    ):
        assert refused(capsys, *arguments).count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [["fill-mask", "--text=[MASK]", "--top=0"], ["embed", "--input=x", "--output=y", "--batch_size=-1"],
     ["evaluate", "--test=x", "--max_seq_length=0"]],
)  # fmt: skip
def test_sizes_out_of_range_are_refused(folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"must be [13] or more", refused(capsys, *words, "--model", str(folder)))
