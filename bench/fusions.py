"""python -m bench.fusions: bytes that further fusions would save, for ALBERT-base at 16,384 tokens.

The model's ops are counted on the meta device and compared with the traffic of a kernel that does them in one pass.
The last column is the time for the difference at 3.35 TB/s, the memory bandwidth of an H100.
"""

from collections.abc import Iterable
from typing import Any

import torch
from rich.console import Console

from albert_fast.config import PRESETS, AlbertConfig, TrainConfig
from albert_fast.model import AlbertForPreTraining
from albert_fast.optimizer import FlatParameters, Optimizer
from albert_fast.packed import Packed
from albert_fast.text_tables import number_table
from bench.counting import OpBytes

TOKENS, PREDICTIONS, BYTES_PER_MILLISECOND = 16384, 2560, 3.35e9


def _sum(counted: Iterable[OpBytes], *names: str) -> int:
    return sum(moved for ops in counted for name, moved in ops.ops if name in names)


def count() -> list[tuple[str, int, int]]:
    """(fusion, bytes now, bytes when fused) for each candidate."""
    sizes: dict[str, Any] = {**PRESETS["base"], "embedding_size": 128, "vocab_size": 21128}
    config = AlbertConfig(**sizes, max_position_embeddings=512)
    with torch.device("meta"):
        model = AlbertForPreTraining(config)
        ids, cu_seqlens = torch.zeros(TOKENS, dtype=torch.int32), torch.zeros(129, dtype=torch.int32)
        masked = torch.empty(PREDICTIONS, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    flat = FlatParameters(model, torch.bfloat16)
    matrix = TOKENS * config.hidden_size * 2
    normed = "add", "_to_copy", "native_layer_norm", "native_layer_norm_backward"

    counted = OpBytes(), OpBytes()
    with counted[0]:
        y = model.albert.embeddings(Packed(ids, ids, ids, cu_seqlens, 128))
    with counted[1]:
        y.backward(torch.empty_like(y))
    rows = [("embeddings: sum of three and LayerNorm", _sum(counted, *normed), 6 * matrix)]

    counted = OpBytes(), OpBytes()
    with counted[0]:
        y = model.mlm_head.features(masked, model.albert.embeddings)
    with counted[1]:
        y.backward(torch.empty_like(y))
    rows.append(("MLM head: bias, GELU and LayerNorm", _sum(counted, *normed, "gelu", "gelu_backward", "sum"),
                 6 * PREDICTIONS * config.hidden_size * 2))  # fmt: skip

    optimizer = Optimizer(flat, TrainConfig(max_steps=100, warmup_steps=5))
    with OpBytes() as update:
        optimizer.update(1)
    # The norm reads the gradient. The first pass reads gradient, moments and weights and writes moments and update; the
    # second reads update and weights and writes weights, their bf16 copy and a zero gradient.
    fused = 12 * flat.master.nbytes + flat.compute.nbytes
    rows.append(("LAMB: two passes over the flat buffers", update.bytes, fused))
    return rows


def main() -> None:
    title = "Possible fusions: MB now, MB when fused, and the time saved"
    table = number_table(title, ("fusion", "now", "fused", "ms per micro-step (LAMB: per step)"))
    for name, now, fused in count():
        table.add_row(name, f"{now / 1e6:.0f}", f"{fused / 1e6:.0f}", f"{(now - fused) / BYTES_PER_MILLISECOND:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
