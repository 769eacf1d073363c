"""Sum of the embeddings with LayerNorm."""

from torch import Tensor

from albert_fast.ops.norms import layer_norm
from albert_fast.ops.philox import dropout as apply_dropout
from albert_fast.ops.products import embedding


def embed_layer_norm(
    word: Tensor, position_ids: Tensor, token_type_ids: Tensor, position_weight: Tensor, token_type_weight: Tensor,
    weight: Tensor, layer_norm_bias: Tensor, epsilon: float = 1e-12, dropout: float = 0.0, key: Tensor | None = None,
    site: int = 0,
) -> Tensor:  # fmt: skip
    """dropout(LN(word + position_weight[position_ids] + token_type_weight[token_type_ids])) -> [..., H].

    Args:
        word: token embeddings [..., H], already projected in the zh layout.
        position_ids, token_type_ids: int32 or int64 [...], indices into position_weight [S, H] and token_type_weight
            [types, H].
        weight, layer_norm_bias: LayerNorm's [H].
        key, site: as in `dropout`.
    """
    total = word + embedding(position_ids, position_weight) + embedding(token_type_ids, token_type_weight)
    return apply_dropout(layer_norm(total, weight, layer_norm_bias, epsilon), dropout, key, site)
