"""The classifier matches HuggingFace's, and pools the first token or the mean over all tokens."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.finetuning import LAYERS, SIZES, TOKENS, options, run

from albert_fast.config import AlbertConfig
from albert_fast.convert.command import ConvertOptions, convert
from albert_fast.data.load_tokenizer import wordpiece_tokenizer
from albert_fast.downstream.classifier import AlbertForSequenceClassification
from albert_fast.downstream.texts import encode_texts
from albert_fast.metrics import read_metrics
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import UserError


def test_mean_pooling(pretrained: Path) -> None:
    output = run(options(pretrained, pooling="mean"))
    assert max(line.get("dev_accuracy", 0) for line in read_metrics(output)) >= 0.97
    model = AlbertForSequenceClassification.from_pretrained(output)
    backbone = AlbertForPreTraining(model.config)
    backbone.load_state_dict(
        {**backbone.state_dict(), **{n: t for n, t in model.state_dict().items() if "albert" in n}}
    )
    ids = torch.tensor([model.tokenizer.encode_pair("w1 yes w3", None, 16)[0]])
    with torch.no_grad():
        mean = backbone(ids).last_hidden_state[0].mean(0)
        expected = model.classifier(torch.tanh(model.albert.pooler(mean))).softmax(-1)
    assert list(model.predict(["w1 yes w3"])[0].probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(UserError, match="classifier_pooling=mean cannot be exported to HuggingFace"):
        convert(ConvertOptions(checkpoint=str(output), output=str(output.parent / "hf"), to="huggingface"))


def test_logits_equal_huggingface(tmp_path: Path) -> None:
    """Against HuggingFace's AlbertForSequenceClassification with the same weights; its batch is padded, ours packed."""
    shape = transformers.AlbertConfig(**SIZES, **LAYERS, num_labels=3)
    torch.manual_seed(1)
    theirs = transformers.AlbertForSequenceClassification(shape).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.albert.save_pretrained(tmp_path / "hf")
    convert(ConvertOptions(checkpoint=str(tmp_path / "hf"), output=str(tmp_path / "ours"), new_heads=True))
    config = AlbertConfig.from_pretrained(tmp_path / "ours")
    ours = AlbertForSequenceClassification(config.replace(extra={"id2label": {"0": "a", "1": "b", "2": "c"}})).eval()
    weights = load_file(tmp_path / "ours" / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if name.startswith("albert.")}
    ours.load_weights(weights | {f"classifier.{k}": v for k, v in theirs.classifier.state_dict().items()}, "here")
    tokenizer = wordpiece_tokenizer(TOKENS)
    pairs = [("w1 w2 yes", "w3"), ("no", None), ("w5 " * 40, "w6 " * 3), ("", None)]
    texts = encode_texts(tokenizer, pairs, 24, config)
    assert texts.lengths.tolist() == [7, 3, 24, 2]
    ids, types, mask = (torch.zeros(4, 24, dtype=torch.long) for _ in range(3))
    for i, (start, end) in enumerate(zip(texts.cu_seqlens, texts.cu_seqlens[1:], strict=False)):
        ids[i, : end - start] = torch.from_numpy(texts.input_ids[start:end])
        types[i, : end - start] = torch.from_numpy(texts.token_type_ids[start:end])
        mask[i, : end - start] = 1
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    torch.testing.assert_close(ours.logits(texts), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.logits(texts, batch_size=1), expected, atol=1e-5, rtol=0)


def test_sizes_out_of_range_are_refused() -> None:
    model = AlbertForSequenceClassification(AlbertConfig(**SIZES, **LAYERS, extra={"id2label": {"0": "a", "1": "b"}}))
    model.tokenizer = wordpiece_tokenizer(TOKENS)
    for name, value, rule in (
        ("batch_size", 0, "1 or more"), ("batch_size", -1, "1 or more"), ("batch_size", 2.5, "a whole number"),
        ("max_seq_length", 0, "3 or more"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^{name}={value} must be {rule}$"):
            model.predict(["w1", "w2"], **{name: value})
