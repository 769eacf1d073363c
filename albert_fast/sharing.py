"""Gives layers that share weights copies of their own, so that every layer computes exactly what it did."""

from collections.abc import Callable

from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.options import UserError

# (number of sets, layer, inner layer) -> the set it uses, as AlbertConfig.set_index
SetIndex = Callable[[int, int, int], int]


def unshare(
    weights: dict[str, Tensor], old: AlbertConfig, new: AlbertConfig, *, power: int = 0,
    set_index: SetIndex | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The weights of a model whose share_type or groups are loosened from old's to new's, equal in every output.

    Args:
        power: divide each loosened tensor by (the uses it had / the uses it has) ** power: 1 and 2 for the first and
            second moments of its gradient, 0 for weights.
        set_index: which set a layer uses in the old model, where another project's rule differs from old's.

    Raises:
        UserError: new shares between layers what differs between them in old.
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
