"""Loss curves of ours against HuggingFace, and of each ln_type and share_type: `python -m bench.bench_quality`.

The corpus is CPython's help topics, prepared with a small trained vocabulary. HuggingFace's AlbertForPreTraining starts
from the same weights and trains on the same micro-batches with torch's AdamW at the same settings, so the two curves
differ only by rounding. The ln_types and share_types train longer, until they leave the plateau of predicting tokens by
frequency. Writes quality.json and quality.png.
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from albert_fast.config import AlbertConfig, TrainConfig
from albert_fast.data.batches import PretrainingLoader
from albert_fast.demo import python_topics
from albert_fast.figures import save_figure, subplots
from albert_fast.files import strict_json
from albert_fast.model import AlbertForPreTraining
from albert_fast.step import TrainStep
from bench import huggingface, machine
from bench.corpus import prepare_quietly

RESULTS = Path(__file__).parent / "results"
RUNS = {"postln": {}, "preln": {"ln_type": "preln"}, "share ffn": {"share_type": "ffn"},
        "share attention": {"share_type": "attention"}, "share None": {"share_type": "None"}}  # fmt: skip
LENGTH = 64
LONG_RATE = 2e-3  # all leave the plateau at 5.8 nats within 1,000 steps of 1,024 tokens


def topics_folder(root: Path, vocab_size: int) -> Path:
    text = root / "topics.txt"
    text.write_text(python_topics(), encoding="utf-8")
    prepare_quietly(text, root / "data", train_vocab=vocab_size)
    return root / "data"


def settings(tokens: int) -> dict[str, Any]:
    return dict(tokens_per_batch=tokens, max_seq_length=LENGTH, seed=11, threads=1)


def train_config(steps: int, rate: float = 1e-3) -> TrainConfig:
    return TrainConfig(optimizer="adamw", learning_rate=rate, warmup_steps=steps // 10, max_steps=steps, seed=11)


def fresh(config: AlbertConfig) -> AlbertForPreTraining:
    torch.manual_seed(11)
    return AlbertForPreTraining(config)


def our_losses(config: AlbertConfig, folder: Path, tokens: int, steps: int, rate: float = 1e-3) -> list[float]:
    with PretrainingLoader(folder, **settings(tokens)) as loader:
        first = next(loader)
        step = TrainStep(fresh(config), first, LENGTH, train_config(steps, rate))
        losses = []
        for batch in [first, *islice(loader, steps - 1)]:
            step([batch])
            losses.append(step.read_metrics()["loss"])
    return losses


def their_losses(config: AlbertConfig, folder: Path, tokens: int, steps: int) -> list[float]:
    model = huggingface.build(config)
    huggingface.copy_weights(model, fresh(config))
    step = huggingface.PeerStep(model, train_config(steps))
    with PretrainingLoader(folder, **settings(tokens)) as loader:
        return [float(step(huggingface.pad(batch))) for batch in islice(loader, steps)]


def run(steps: int, long_steps: int, tokens: int, vocab_size: int, **size: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as root:
        folder = topics_folder(Path(root), vocab_size)
        config = AlbertConfig(vocab_size=vocab_size, layout="google", **size)
        theirs = their_losses(config, folder, tokens, steps)
        ours = our_losses(config, folder, tokens, steps)
        long = {
            name: our_losses(config.replace(**change), folder, 2 * tokens, long_steps, LONG_RATE)
            for name, change in track(RUNS.items(), "ln_types and share_types", console=Console(stderr=True))
        }
    last = max(long_steps // 10, 1)
    return {
        "bench": "quality", "machine": machine.describe("cpu"), "config": config.to_dict(),
        "tokens_per_batch": tokens, "curves": {"HuggingFace": theirs, "ours": ours},
        "largest_difference_from_huggingface": max(abs(a - b) for a, b in zip(theirs, ours, strict=True)),
        "long_tokens_per_batch": 2 * tokens, "long_curves": long,
        "last_losses": {name: sum(curve[-last:]) / last for name, curve in long.items()},
    }  # fmt: skip


def plot(document: dict[str, Any], file: Path) -> None:
    figure, both = subplots(1, 2, width=12)
    curves, long = document["curves"], document["long_curves"]
    width = max(len(long["postln"]) // 30, 1)

    def smooth(values: list[float]) -> list[float]:
        return [sum(values[max(i - width + 1, 0) : i + 1]) / min(i + 1, width) for i in range(len(values))]

    both[0].plot(curves["HuggingFace"], label="HuggingFace", linewidth=3, alpha=0.4)
    both[0].plot(curves["ours"], label="ours", linewidth=1)
    for name, curve in long.items():
        both[1].plot(smooth(curve), label="share all, postln" if name == "postln" else name)
    difference = document["largest_difference_from_huggingface"]
    titles = (f"same weights, tokens, optimizer: largest difference {difference:.1e}", f"mean of {width} steps")
    for axes, title in zip(both, titles, strict=True):
        axes.set(xlabel="step", ylabel="MLM + sentence-order loss (nats)", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=300, help="steps of the comparison with HuggingFace (default: 300)"
    )
    parser.add_argument(
        "--long_steps", type=int, default=2000, help="steps of each ln_type and share_type (default: 2000)"
    )
    parser.add_argument(
        "--tokens", type=int, default=512, help="tokens per micro-batch, doubled in the long runs (default: 512)"
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "quality.json", help="result file; the plot is put beside it"
    )
    options = parser.parse_args()
    size = dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, embedding_size=64)
    document = run(options.steps, options.long_steps, options.tokens, 2048, **size)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(strict_json(document) + "\n")
    plot(document, options.output.with_suffix(".png"))
    print(f"largest difference from HuggingFace: {document['largest_difference_from_huggingface']:.1e}")
    for name, loss in document["last_losses"].items():
        print(f"{name}: {loss:.3f} over the last tenth of the steps")


if __name__ == "__main__":
    main()
