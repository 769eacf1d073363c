"""`albert-fast sizes`: albert_pytorch's model-size table next to ours, and the parameters of every preset."""

from dataclasses import dataclass

import torch
from rich.console import Console

from albert_fast.config import PRESETS, AlbertConfig
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, option
from albert_fast.text_tables import number_table

SEED_MEGABYTES = {
    (768, "None"): 476.5, (768, "attention"): 372.4, (768, "ffn"): 268.6, (768, "all"): 164.6,
    (128, "None"): 369.1, (128, "attention"): 265.1, (128, "ffn"): 161.2, (128, "all"): 57.2,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SizesOptions(Options):
    """albert_pytorch's size table, recomputed, and the parameters and fp32 megabytes of every preset."""

    json: bool = option(False, "print one JSON document instead of tables; megabytes are 10^6 bytes")


def state_shapes(config: AlbertConfig) -> dict[str, torch.Tensor]:
    """State dict of a model on the meta device: shapes without memory."""
    with torch.device("meta"):
        return AlbertForPreTraining(config).state_dict()


def seed_checkpoint_bytes(config: AlbertConfig) -> int:
    """Bytes of albert_pytorch's fp32 checkpoint, which stores the decoder and the projection twice."""
    state = state_shapes(config)
    again = ("albert.embeddings.word_embeddings.weight", "albert.embeddings.projection.weight")
    return sum(4 * t.numel() * (1 + (name in again)) for name, t in state.items())


def sizes(options: SizesOptions) -> None:
    """Print the size tables."""
    rows: list[dict] = []
    for (embedding_size, share_type), megabytes in SEED_MEGABYTES.items():
        config = AlbertConfig.from_preset("base", embedding_size=embedding_size, share_type=share_type)
        ours = round(seed_checkpoint_bytes(config) / 1e6, 3)
        made = dict(embedding_size=embedding_size, share_type=share_type, megabytes=ours)
        rows.append(made | dict(seed_megabytes=megabytes))
    presets: list[dict] = []
    for name in PRESETS:
        for layout in ("zh", "google"):
            count = sum(t.numel() for t in state_shapes(AlbertConfig.from_preset(name, layout=layout)).values())
            presets.append(dict(preset=name, layout=layout, parameters=count, megabytes=round(count * 4e-6, 1)))
    console = Console()
    if options.json:
        console.print_json(data={"rows": rows, "presets": presets})
        return
    title = "ALBERT-base, fp32 MB as albert_pytorch stores it (decoder and projection twice)"
    table = number_table(title, ("embedding_size", "share_type", "albert_pytorch", "albert_fast"), text_columns=0)
    for row in rows:
        seed = str(row["seed_megabytes"])
        table.add_row(str(row["embedding_size"]), row["share_type"], seed, f"{row['megabytes']:.2f}")
    console.print(table)
    title = "Presets, share_type=all, every parameter once"
    table = number_table(title, ("preset", "layout", "parameters", "fp32 MB"), text_columns=0)
    for row in presets:
        table.add_row(row["preset"], row["layout"], f"{row['parameters']:,}", f"{row['megabytes']:,.1f}")
    console.print(table)
