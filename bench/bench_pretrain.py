"""Pretraining end to end against HuggingFace's AlbertForPreTraining: `python -m bench.bench_pretrain`.

Both sides have the same weights (google layout), sequences and AdamW settings; HuggingFace uses
torch.optim.AdamW(fused=True) with clip_grad_norm_, SDPA attention, logits at all positions (as its model does) and
batches that were padded beforehand, while our time includes our loader. There are two kinds of text: documents much
longer than S=128, so that every sequence is full and HuggingFace needs no mask, and short documents at S=512
(log-normal, median 150 tokens, sigma 0.8), which HuggingFace pads. Rounds alternate, and the ratio is the median over
pairs of adjacent rounds. The loss and all gradients of the first batch are compared before timing. The matrix rate is
that of torch.mm (bmm for attention) at the same shapes in the same run; its share is the time of these products over
the time of our step, and can exceed 100% where our ops use a faster library (oneDNN) than torch.mm does.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.data.batches import Batch, PretrainingLoader
from albert_fast.files import strict_json
from albert_fast.flops import Product, step_products
from albert_fast.model import AlbertForPreTraining
from albert_fast.step import TrainStep
from albert_fast.text_tables import number_table
from bench import huggingface, machine
from bench.corpus import synthetic_folder

RESULTS = Path(__file__).parent / "results"
TARGETS = {("full", "tiny"): 2.5, ("full", "base"): 1.2, ("short", "tiny"): 2.5, ("short", "base"): 1.8}
TOKENS = {"tiny": 4096, "base": 1024}
DOCUMENTS = {"full": (20_000.0, 0.3), "short": (150.0, 0.8)}  # median tokens and sigma of the log-normal lengths
LENGTH = {"full": 128, "short": 512}


def folders(root: Path, vocab_size: int, tokens: int = 300_000) -> dict[str, Path]:
    return {kind: synthetic_folder(root / kind, tokens, *lengths, vocab_size) for kind, lengths in DOCUMENTS.items()}


def compare(
    config: AlbertConfig, folder: Path, tokens: int, length: int, rounds: int, device: str = "cpu"
) -> dict[str, Any]:
    """Real (non-padding) tokens/s and stage times of both sides, and our share of the matrix rate."""
    bf16 = device == "cuda"
    train = TrainConfig(optimizer="adamw", learning_rate=1e-4, warmup_steps=0, max_steps=10_000, ops="auto")
    settings = dict(tokens_per_batch=tokens, max_seq_length=length, seed=1, threads=1, short_seq_prob=0.0)
    torch.manual_seed(0)
    model = AlbertForPreTraining(config, "auto").to(device)
    theirs = huggingface.build(config).to(device)
    huggingface.copy_weights(theirs, model)
    with PretrainingLoader(folder, **settings) as loader:  # type: ignore[arg-type]
        first = next(loader)
        step = TrainStep(model, first, length, train, torch.bfloat16 if bf16 else torch.float32)
        peer_step = huggingface.PeerStep(theirs, train, torch.bfloat16 if bf16 else None)
        checked = check_gradients(step, peer_step, first, device)
        ours: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        padded_shapes: list[tuple[int, int]] = []
        for turn in range(rounds + 1):
            if turn == 1:  # the first pair is warm-up
                ours, others, padded_shapes = [], [], []
            batch, timed = _timed_ours(step, loader)
            ours.append(timed)
            padded = huggingface.pad(batch, device)
            padded_shapes.append((batch.num_tokens, padded["input_ids"].numel()))
            others.append(_timed_theirs(peer_step, padded, batch.num_tokens))
    rate, theirs_rate = ([r["tokens"] / r["seconds"] for r in side] for side in (ours, others))
    ratios = sorted(a / b for a, b in zip(rate, theirs_rate, strict=True))
    capacities = (tokens, length, len(first.sentence_order_labels), len(first.masked_lm_ids))
    products = measured_products(step_products(config, *capacities), device, bf16)
    matrix_seconds = sum(p["seconds"] for p in products)
    step_seconds = statistics.median(r["seconds"] for r in ours)
    flops = sum(p["flops"] for p in products)
    row: dict[str, Any] = {
        "tokens_per_batch": tokens,
        "max_seq_length": length,
        "gradient_check": checked,
        "tokens_per_second": statistics.median(rate),
        "step_seconds": step_seconds,
        "stages_seconds": _median_stages(ours),
        "matrix_seconds": matrix_seconds,
        "matrix_rate_flops": flops / matrix_seconds,
        "model_flops_per_second": flops / step_seconds,
        "matrix_rate_share": matrix_seconds / step_seconds,
        "products": products,
        "rounds": rounds,
        "huggingface_tokens_per_second": statistics.median(theirs_rate),
        "huggingface_stages_seconds": _median_stages(others),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
    }
    if length == 512:
        row["padded_share"] = 1 - sum(t for t, _ in padded_shapes) / sum(n for _, n in padded_shapes)
        del row["matrix_rate_share"], row["matrix_rate_flops"], row["model_flops_per_second"]  # sequences are not full
    return row


def _median_stages(rounds: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(r["stages"][name] for r in rounds) for name in rounds[0]["stages"]}


def check_gradients(step: TrainStep, peer: huggingface.PeerStep, batch: Batch, device: str) -> dict[str, Any]:
    """Compare loss and gradients of both sides on one batch; raises SystemExit unless they agree."""
    step.inputs.load(batch)
    with step.untouched():
        losses = step.losses()
        losses.loss.backward()
        loss = peer.forward(huggingface.pad(batch, device))
        loss.backward()
        error, name = huggingface.gradient_error(peer.model, step.model)
    peer.optimizer.zero_grad(set_to_none=True)
    difference = float((loss - losses.loss).detach().abs() / loss.detach())
    bound = 1e-3 if peer.autocast is None else 0.1
    if not (difference < bound and error < bound):
        raise SystemExit(
            f"HuggingFace differs: loss by {difference:.1e}, gradient of {name} by {error:.1e}; bound {bound:g}"
        )
    return {"loss_difference": difference, "largest_gradient_difference": error}


class _Clock:
    """Measures the stages of a step: `mark(name)` adds the seconds since the previous mark to stage `name`."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, name: str) -> None:
        machine.synchronize()
        now = time.perf_counter()
        self.stages[name] = self.stages.get(name, 0.0) + now - self.last
        self.last = now

    def result(self, tokens: int) -> dict[str, Any]:
        return {"tokens": tokens, "seconds": sum(self.stages.values()), "stages": self.stages}


def _timed_ours(step: TrainStep, loader: Iterator[Batch]) -> tuple[Batch, dict[str, Any]]:
    clock = _Clock()
    batch = next(loader)
    step.inputs.load(batch)
    clock.mark("data")
    if step.key.is_cuda:
        step.run_micro_step()
        clock.mark("forward")
    else:
        losses = step.losses()
        clock.mark("forward")
        losses.loss.backward()
    clock.mark("backward")
    step.run_update()
    clock.mark("update")
    return batch, clock.result(batch.num_tokens)


def _timed_theirs(step: huggingface.PeerStep, batch: dict[str, Tensor], tokens: int) -> dict[str, Any]:
    clock = _Clock()
    loss = step.forward(batch)
    clock.mark("forward")
    loss.backward()
    del loss
    clock.mark("backward")
    step.update()
    clock.mark("update")
    return clock.result(tokens)


def measured_products(products: list[Product], device: str, bf16: bool) -> list[dict[str, Any]]:
    """Seconds of each matrix product of a step, timed alone and multiplied by its number of occurrences."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    rows = []
    for p in products:
        if p.batch == 1:
            run = machine.product(p.kind, p.rows, p.columns, p.inner, device, dtype)
        else:
            shapes = ((p.batch, p.rows, p.inner), (p.batch, p.inner, p.columns))
            run = partial(torch.bmm, *(torch.randn(shape, device=device, dtype=dtype) for shape in shapes))
        taken = machine.seconds(run, times=3, warm_up=1) * p.count
        shape = [p.batch, p.rows, p.columns, p.inner]
        rows.append(dict(name=p.name, kind=p.kind, shape=shape, count=p.count, flops=p.flops, seconds=taken))
    return rows


def run(
    presets: list[str], kinds: list[str], rounds: int, vocab_size: int, scale: float = 1.0,
    earlier: Sequence[dict[str, Any]] = (), keep: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:  # fmt: skip
    """The result document: the rows `earlier` plus those missing there; `keep` saves it after each new row."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    document: dict[str, Any] = {"bench": "pretrain", "machine": machine.describe(device), "rows": list(earlier)}
    done = {(row["text"], row["preset"]) for row in earlier}
    with tempfile.TemporaryDirectory() as root:
        prepared = folders(Path(root), vocab_size)
        for kind, preset in product(kinds, presets):
            if (kind, preset) in done:
                continue
            config = AlbertConfig.from_preset(preset, layout="google", vocab_size=vocab_size)
            tokens = int((16384 if device == "cuda" else TOKENS[preset]) * scale)
            tokens = max(tokens, 4 * LENGTH[kind])  # a batch needs a few sequences
            row = compare(config, prepared[kind], tokens, LENGTH[kind], rounds, device)
            row = {"text": kind, "preset": preset, "target": TARGETS.get((kind, preset)), **row}
            document["rows"].append(row)
            show(row)
            keep(document)
    return document


def show(row: dict[str, Any]) -> None:
    console = Console()
    stages = "  ".join(f"{name} {1000 * s:,.0f}" for name, s in row["stages_seconds"].items())
    theirs = "  ".join(f"{name} {1000 * s:,.0f}" for name, s in row["huggingface_stages_seconds"].items())
    console.print(
        f"[bold]{row['preset']}, {row['text']} at S={row['max_seq_length']}[/bold]: {row['tokens_per_second']:,.0f} "
        f"tokens/s, HuggingFace {row['huggingface_tokens_per_second']:,.0f}, ratio [bold]{row['ratio']:.2f}[/bold] "
        f"({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f}; target {row['target']})",
        highlight=False,
    )
    console.print(f"  ours (ms): {stages}\n  HuggingFace (ms): {theirs}", highlight=False)
    if "matrix_rate_share" in row:
        console.print(
            f"  matrix rate {row['matrix_rate_flops'] / 1e9:,.1f} GFLOP/s, "
            f"our step {row['model_flops_per_second'] / 1e9:,.1f}: share {100 * row['matrix_rate_share']:.0f}%",
            highlight=False,
        )
        columns = ("product", "kind", "batch, rows, columns, inner", "count", "ms", "GFLOP/s")
        table = number_table("matrix products of the step, timed alone", columns, text_columns=2)
        for p in row["products"]:
            size, rate = ", ".join(map(str, p["shape"])), p["flops"] / p["seconds"] / 1e9
            table.add_row(p["name"], p["kind"], size, str(p["count"]), f"{1000 * p['seconds']:,.1f}", f"{rate:,.1f}")
        console.print(table)
    else:
        console.print(f"  {100 * row['padded_share']:.0f}% of HuggingFace's tokens are padding", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "base"], help="models (default: tiny base)")
    parser.add_argument("--text", nargs="+", choices=tuple(DOCUMENTS), default=list(DOCUMENTS), help="default: both")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of steps after one warm-up pair (default: 7)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, help="result file (default: bench/results/pretrain-DEVICE.json)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    document = run(options.presets, options.text, options.rounds, 21128)
    output = options.output or RESULTS / f"pretrain-{machine.slug(document['machine'])}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(strict_json(document, indent=1) + "\n")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
