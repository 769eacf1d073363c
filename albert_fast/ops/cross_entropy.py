"""Decoder product fused with cross entropy, so that the logits [P, V] are never all in memory."""

from typing import Any

import torch
from torch import Tensor

from albert_fast.kernels.main_grad import accumulate_product, scaled_gradients
from albert_fast.ops.products import product, upcast


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients chunk by chunk, so that no logits outlive their chunk; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, row_weights: Tensor, chunk: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.weight, ctx.bias = weight, bias
        dtype = torch.promote_types(x.dtype, torch.float32)
        total = row_weights.sum()
        row_scale = row_weights / torch.where(total > 0, total, 1.0)
        loss, accuracy = x.new_zeros((), dtype=dtype), x.new_zeros((), dtype=dtype)
        if needs_grad := grad_enabled and any(ctx.needs_input_grad[:3]):
            grad_x = torch.empty_like(x)
            grad_weight, grad_bias = (torch.zeros_like(p, dtype=dtype) for p in (weight, bias))
        for start in range(0, x.shape[0], chunk):
            rows = slice(start, start + chunk)
            target, scale = targets[rows].long()[:, None], row_scale[rows].to(dtype)[:, None]
            logits = upcast(product(x[rows], weight, bias))
            largest, likeliest = logits.max(1, keepdim=True)
            of_target = logits.gather(1, target)
            # Passes over [P, V] dominate the time, so softmax runs in place: its kernels read each element for the last
            # time before they write it.
            softmax = torch.softmax(logits, 1, out=logits)
            log_sum_exp = largest - softmax.gather(1, likeliest).log()
            loss += ((log_sum_exp - of_target) * scale).sum()
            accuracy += ((likeliest == target) * scale).sum()
            if needs_grad:
                grad = softmax.scatter_add_(1, target, torch.full_like(scale, -1))
                grad_bias += scale[:, 0] @ grad
                grad = grad.to(x.dtype)
                grad_x[rows] = product(grad, weight.t()) * scale
                accumulate_product(grad_weight, grad, (x[rows] * scale).to(x.dtype))
        if needs_grad:
            ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        ctx.mark_non_differentiable(accuracy)
        return loss, accuracy

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grad_loss), None, None, None, None


def logit_rows(device_type: str) -> int:
    """Rows of logits per chunk: few on CPU, so that they fit the cache."""
    return 256 if device_type == "cpu" else 4096


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, row_weights: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cross entropy of softmax(x [..., E] @ weight [V, E].T + bias [V]) at targets [...].

    Returns the means by row_weights [...] (loss, accuracy) as fp32 scalars, 0 if all weights are 0. Static shapes, no
    host synchronisation; at most `chunk` rows of logits exist at a time (default: `logit_rows`).
    """
    x, targets, row_weights = x.flatten(0, -2), targets.flatten(), row_weights.flatten()
    chunk = chunk or logit_rows(x.device.type)
    # needs_input_grad is True even under no_grad, where evaluation must not pay for gradients.
    return _LinearCrossEntropy.apply(x, weight, bias, targets, row_weights, chunk, torch.is_grad_enabled())
