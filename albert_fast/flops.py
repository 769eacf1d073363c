"""The matrix products of a training step and their FLOPs."""

from dataclasses import dataclass

from albert_fast.config import AlbertConfig


@dataclass(frozen=True)
class Product:
    """`count` products [rows, inner] x [inner, columns], batched for attention; kind is forward, data or weight."""

    name: str
    kind: str
    rows: int
    columns: int
    inner: int
    count: int
    batch: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.columns * self.inner * self.count * self.batch


def step_products(
    config: AlbertConfig, tokens: int, length: int, max_sequences: int, predictions: int
) -> list[Product]:
    """Every matrix product in the forward and backward pass of a micro-batch of full sequences.

    Apart from keys and values, the last layer computes only the tokens that the heads read: the first token of each of
    `max_sequences` sequences, and the `predictions` masked tokens.
    """
    hidden, feed, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    embedding, vocabulary = config.embedding_size, config.vocab_size
    heads, size, sequences = config.num_attention_heads, hidden // config.num_attention_heads, tokens // length
    read = max_sequences + predictions
    linear = [  # name, rows, in, out, count
        ("query_key_value", tokens, hidden, 3 * hidden, layers - 1),
        ("query, last layer", read, hidden, hidden, 1),
        ("key_value, last layer", tokens, hidden, 2 * hidden, 1),
        *(
            (name + where, rows, inside, outside, count)
            for where, rows, count in (("", tokens, layers - 1), (", last layer", read, 1))
            for name, inside, outside in (
                ("attention output", hidden, hidden),
                ("intermediate", hidden, feed),
                ("feed-forward output", feed, hidden),
            )
        ),
        ("embedding projection", tokens, embedding, hidden, 1),
        ("mlm transform", predictions, hidden, embedding if config.layout == "google" else hidden, 1),
        ("decoder", predictions, embedding, vocabulary, 1),
    ]
    products = []
    for name, rows, inside, outside, count in linear:
        products += [
            Product(name, "forward", rows, outside, inside, count),
            Product(name, "data", rows, inside, outside, count),
            Product(name, "weight", outside, inside, rows, count),
        ]
    batch, last_queries = sequences * heads, 1 - (-predictions // sequences)
    # q k.T and p v forward; dv, dp, dq, dk backward (q k.T recomputed by FlashAttention is not counted).
    for name, queries, count in (("attention", length, layers - 1), ("attention, last layer", last_queries, 1)):
        products += [
            Product(name, "forward", queries, length, size, 2 * count, batch),
            Product(name, "data", queries, size, length, 4 * count, batch),
        ]
    return products


def step_flops(config: AlbertConfig, tokens: int, length: int, max_sequences: int, predictions: int) -> int:
    """FLOPs of the forward and backward pass, including attention."""
    return sum(p.flops for p in step_products(config, tokens, length, max_sequences, predictions))
