"""Costs of an op on a card: bytes moved, FLOPs and launches.

PyTorch ops follow one rule, with the exceptions listed here: an op reads its tensor arguments and writes its results.
Our own ops declare their costs next to their fakes (kernels/cost.py).
"""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from albert_fast.kernels.cost import Cost, Kind, cost_of, size_of

# Ops that launch nothing although their schema has no alias.
_FREE = (
    "empty", "new_empty", "_unsafe_view", "lift_fresh", "is_pinned", "_record_function", "squeeze_", "unsqueeze_",
    "promote_types",
)  # fmt: skip
_FILLS = ("zero", "fill", "new_zeros", "full", "new_full", "ones", "arange")
# Matrix products, and the index of their left operand.
_LEFT_OPERAND = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1, "_addmm_activation": 1}
_GATHERS = ("embedding", "gather", "index_select")
# Ops with several launches. embedding_dense_backward: zeros, arange, a radix sort of 16 bits (histogram,
# scan, two passes, memsets), unique, scan, and five kernels (aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu).
_LAUNCHES = {"embedding_dense_backward": 17}


def is_free(func: Any) -> bool:
    """Whether an op launches nothing: views and allocations."""
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    return view or func.overloadpacket.__name__.startswith(_FREE)


def costs_of(func: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> list[Cost]:
    """Costs of one dispatched op with its arguments and result."""
    if (stated := cost_of(func._schema.name, *args, **kwargs)) is not None:
        return stated
    name = func.overloadpacket.__name__
    if name in ("_flash_attention_forward", "_flash_attention_backward"):
        return [_flash(name, args, _tensors((args, kwargs, result)))]
    if "scaled_dot_product" in name:  # [B, N, S, D]; backward's first argument is the gradient
        query, key = (args[1], args[2]) if "backward" in name else (args[0], args[1])
        flops = 4 * query.numel() * key.shape[-2] * (5 if "backward" in name else 2) // 2
        return [Cost(name, size_of(*_tensors((args, kwargs, result))), flops, kind="attention")]
    inputs, outputs = _tensors((args, kwargs)), _tensors(result)
    moved = size_of(*inputs, *outputs)
    if name.startswith(_FILLS):
        moved = size_of(*outputs) or size_of(inputs[0])
    elif name in _GATHERS:
        moved = 2 * size_of(*outputs)
    flops = 2 * outputs[0].numel() * args[_LEFT_OPERAND[name]].shape[-1] if name in _LEFT_OPERAND else 0
    kind: Kind = "product" if name in _LEFT_OPERAND else "layer_norm" if "layer_norm" in name else "memory"
    return [Cost(name, moved, flops, _LAUNCHES.get(name, 1), kind)]


def _flash(name: str, args: tuple, tensors: list[Tensor]) -> Cost:
    """FlashAttention over full sequences: two products in forward; five in backward, in three launches."""
    backward = name == "_flash_attention_backward"
    query, longest = (args[1], args[9]) if backward else (args[0], args[6])
    flops = 4 * query.numel() * longest
    return Cost(name, size_of(*tensors), flops * 5 // 2 if backward else flops, 3 if backward else 1, "attention")


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
