"""HuggingFace's AlbertForPreTraining as a baseline: the same weights, tokens and optimizer settings as ours."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.convert.names import huggingface_names
from albert_fast.data.adapters import PaddingCollator, examples_of
from albert_fast.data.batches import Batch
from albert_fast.model import AlbertForPreTraining
from albert_fast.optimizer import Optimizer


def pad(batch: Batch, device: str = "cpu") -> dict[str, Tensor]:
    """A packed batch as arguments of HuggingFace's model: int64 [B, S], padded; no attention_mask if all are full."""
    padded = PaddingCollator(pad_token_id=0, pad_to_multiple_of=1)(list(examples_of(batch)))
    if bool(padded["attention_mask"].all()):
        del padded["attention_mask"]
    return {name: x.to(device) for name, x in padded.items()}


def build(config: AlbertConfig) -> nn.Module:
    """transformers.AlbertForPreTraining with the sizes of `config`, SDPA attention and random weights."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    import transformers

    others: dict[str, Any] = {"classifier_dropout_prob": config.hidden_dropout_prob, "attn_implementation": "sdpa"}
    return transformers.AlbertForPreTraining(transformers.AlbertConfig(**config.to_dict(), **others))


def pairs(theirs: nn.Module, ours: AlbertForPreTraining) -> list[tuple[nn.Parameter, list[nn.Parameter], str]]:
    """(our parameter, the parameters of theirs whose concatenation it is, its name) for each parameter of ours."""
    parameters, own = dict(theirs.named_parameters()), dict(ours.named_parameters())
    names = huggingface_names(ours.config)
    found = ((name, [parameters[n] for n in parts if n in parameters]) for name, parts in names.items() if name in own)
    return [(own[name], parts, name) for name, parts in found if parts]


@torch.no_grad()
def copy_weights(theirs: nn.Module, ours: AlbertForPreTraining) -> None:
    """Copy our weights into `theirs`."""
    for own, parts, _ in pairs(theirs, ours):
        for part, value in zip(parts, own.chunk(len(parts)), strict=True):
            part.copy_(value)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: biases and LayerNorm weights (vectors) are not decayed."""
    every = list(parameters)
    decayed, others = ([p for p in every if (p.dim() > 1) == matrix] for matrix in (True, False))
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class PeerStep:
    """A training step of HuggingFace's model as its users write it: loss, backward, clip, AdamW, zero_grad.

    Fused torch.optim.AdamW with our betas, epsilon, decay groups, clipping and schedule.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, autocast: torch.dtype | None = None):
        self.model, self.config, self.autocast = model, config, autocast
        self.device = next(model.parameters()).device.type
        groups = decay_groups(model.parameters(), config.weight_decay)
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=Optimizer.betas, eps=Optimizer.epsilon, fused=True
        )

        def rate(done: int) -> float:
            """The schedule of our Optimizer.learning_rate, on the host."""
            if done < config.warmup_steps:
                return (done + 1) / config.warmup_steps
            return max(config.max_steps - done, 0) / max(config.max_steps - config.warmup_steps, 1)

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast(self.device, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            return self.model(**batch).loss

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.forward(batch)
        loss.backward()
        self.update()
        return loss.detach()


def gradient_error(theirs: nn.Module, ours: AlbertForPreTraining) -> tuple[float, str]:
    """(largest relative L2 error of a gradient, name of its parameter); our gradients are in main_grad.

    The key bias has no gradient in exact arithmetic, so errors are relative to the whole query_key_value.bias.
    """
    worst = (0.0, "")
    for own, parts, name in pairs(theirs, ours):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parts]
        actual: Tensor = own.main_grad.flatten()  # type: ignore[attr-defined]
        expected = torch.cat([grad.float().flatten() for grad in grads])
        error = float((expected - actual).norm() / expected.norm().clamp(min=1e-12))
        worst = max(worst, (error, name))
    return worst
