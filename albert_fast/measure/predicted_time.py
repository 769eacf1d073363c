"""`albert-fast profile --predict CARD`: the time of a training step on a card, without having the card."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from albert_fast.cards import Card
from albert_fast.config import PRESETS, AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.measure.ledger_report import ledger_table, plot_classes
from albert_fast.measure.memory import SHARE_TYPES
from albert_fast.measure.plan import plan, plan_text
from albert_fast.measure.pricing import Priced, price
from albert_fast.measure.status_line import StatusLine
from albert_fast.measure.step_spec import StepSpec
from albert_fast.options import UserError, note


def step_spec(config: AlbertConfig, data: DataConfig, train: TrainConfig) -> StepSpec:
    """The step of a CUDA run in bf16 with these settings."""
    if train.precision == "fp32":
        raise UserError("precision=fp32 cannot be priced, because card rates are for bf16; omit --precision")
    return StepSpec.of_run(config, data, replace(train, capture="off", device="auto"), "cuda", torch.bfloat16)


def predict_time(
    card: Card, ffn: str, model: ModelOptions, data: DataConfig, train: TrainConfig, *, rows: int, json: bool,
    gpus: int, tokens: float | None, png: str | None,
) -> None:  # fmt: skip
    """Print the ledger of a step priced for `card`; with `tokens`, also the duration of a run on `gpus` such cards."""
    spec = step_spec(model.build(), data, train)
    priced = price(spec, card, ffn)
    found = None if tokens is None else plan(priced, parameter_count(spec), gpus, tokens)
    if png:
        draw(card, ffn, model, data, train, Path(png))
    if json:
        document = priced.document() | ({} if found is None else {"plan": asdict(found)})
        Console(soft_wrap=True).print_json(data=document)
        return
    products = "the library's products" if ffn == "library" else "our products"
    title = (
        f"{model.config}, share_type {spec.config.share_type}, {spec.config.ln_type}, T={data.tokens_per_batch:,}, "
        f"S={data.max_seq_length}, {train.optimizer}, predicted for {card.name}, {products} in the feed-forward layers"
    )
    print(ledger_table(priced, title, rows))
    print(f"Rates: {card.source}.")
    if found:
        print("\n" + plan_text(found, priced), end="")


def parameter_count(spec: StepSpec) -> int:
    """Elements of the flat gradient buffer."""
    return len(spec.build_on_meta().flat.grad)


def draw(card: Card, ffn: str, model: ModelOptions, data: DataConfig, train: TrainConfig, file: Path) -> None:
    """Plot op classes for each share_type of the given model, then for each preset with share_type all."""
    models = {f"{model.config}\n{share}": replace(model, share_type=share) for share in SHARE_TYPES}
    models |= {f"{preset}\nall": replace(model, config=preset, share_type="all") for preset in PRESETS}
    steps: dict[str, Priced] = {}
    with StatusLine() as progress:
        for label, asked in models.items():
            progress.begin(f"pricing {' '.join(label.split())}")
            steps[label] = price(step_spec(asked.build(), data, train), card, ffn)
    plot_classes(steps, file, f"A step predicted for {card.name}: T={data.tokens_per_batch:,}, S={data.max_seq_length}")
    note(f"drew {file}")
