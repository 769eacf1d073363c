"""Unsharing: gives layers their own copies of shared weights, so that every layer computes exactly the same."""

from collections.abc import Callable

from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.options import UserError

# (number of parameter sets, layer, inner layer) -> index of its set; see AlbertConfig.set_index
SetIndex = Callable[[int, int, int], int]


def unshare(
    weights: dict[str, Tensor], old: AlbertConfig, new: AlbertConfig, *, power: int = 0,
    set_index: SetIndex | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Weights of `old` for a model `new` that shares less (share_type or groups), with identical outputs.

    Args:
        power: each unshared tensor is divided by (uses before / uses after) ** power: 0 for weights, 1 and 2 for the
            first and second moments of their gradients.
        set_index: which set a layer uses in the old model, for projects whose rule differs from ours.

    Raises:
        UserError: `new` shares weights between layers that differ in `old`.
    """
    encoder = "albert.encoder."
    parts = ("attention", "feed_forward")
    result = {
        name: tensor for name, tensor in weights.items() if not name.startswith(tuple(encoder + p for p in parts))
    }
    layers = [(layer, inner) for layer in range(new.num_hidden_layers) for inner in range(new.inner_group_num)]
    for part, had, has in (
        (parts[0], old.num_attention_sets, new.num_attention_sets),
        (parts[1], old.num_feed_forward_sets, new.num_feed_forward_sets),
    ):
        origins = [(set_index or old.set_index)(had, *place) for place in layers]
        indices = [new.set_index(has, *place) for place in layers]
        source = dict(zip(indices, origins, strict=True))
        if any(source[index] != origin for index, origin in zip(indices, origins, strict=True)):
            raise UserError(
                f"share_type={old.share_type} cannot become {new.share_type}: layers that would share their {part} "
                "have different weights; sharing can only be loosened, so use --share_type None"
            )
        for index, origin in source.items():
            divisor = (origins.count(origin) / indices.count(index)) ** power
            prefix = f"{encoder}{part}.{origin}."
            for name, tensor in weights.items():
                if name.startswith(prefix):
                    own = f"{encoder}{part}.{index}.{name.removeprefix(prefix)}"
                    result[own] = tensor / divisor if divisor != 1 else tensor
    return result
