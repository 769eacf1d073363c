"""Fine-tuning keeps an existing classifier if the classes are the same, and else starts a new one."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from support.finetuning import options, run, sentences

from albert_fast.downstream.classifier import AlbertForSequenceClassification


def test_a_classifier_is_trained_further(pretrained: Path) -> None:
    first = run(options(pretrained))
    more = options(pretrained, model=str(first), output=str(pretrained.parent / "more"), epochs=1, learning_rate=1e-9)
    second = run(more)
    for name, tensor in load_file(first / "model.safetensors").items():
        torch.testing.assert_close(load_file(second / "model.safetensors")[name], tensor, atol=1e-6, rtol=0)
    other = sentences(pretrained.parent / "other.tsv", 60, 5, ("yes", "no", "maybe"))
    third = run(replace(more, train=str(other), dev=str(other), output=str(pretrained.parent / "third")))
    assert len(AlbertForSequenceClassification.from_pretrained(third).class_names) == 3
