"""The sweep behind the defaults of fine-tuning: learning rate, pooling and epochs, by width and pretraining.

Models of three widths are pretrained on the texts of `bench.labelled_texts` for up to 15 minutes of one CPU thread:
`barely` is the checkpoint after 2% of the steps and `well` the last one. This is far less than published models get,
which keep their authors' settings and are not swept here. Each point fine-tunes on 1,500 rows and is scored on 600
others. Points are appended to bench/results/finetune-sweep.jsonl one by one and never recomputed, so an interrupted
sweep resumes where it stopped.

    python -m bench.sweep_finetune --folder /tmp/sweep            # everything: one day of one thread
    python -m bench.sweep_finetune --folder /tmp/sweep --widths narrow --data reviews
    python -m bench.sweep_finetune --table                        # print the results
"""

import argparse
import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import torch

from albert_fast.config import AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.downstream.examples import ColumnOptions
from albert_fast.downstream.finetune import finetune
from albert_fast.downstream.finetune_options import FinetuneOptions
from albert_fast.metrics import read_metrics
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import DeviceOptions
from albert_fast.pretrain import RunOptions, pretrain
from albert_fast.text_tables import markdown_lines
from bench.labelled_texts import DATA_SETS, corpus, write_tsv

RESULTS = Path(__file__).parent / "results" / "finetune-sweep.jsonl"
# (hidden_size, layers, heads, intermediate_size), pretraining steps of 2,048 tokens, learning rates. `wide` has the
# width of base but 2 instead of 12 layers, with which a step takes minutes on one thread.
WIDTHS: dict[str, tuple[tuple[int, int, int, int], int, tuple[float, ...]]] = {
    "narrow": ((128, 2, 4, 512), 2500, (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    "tiny": ((312, 4, 12, 1248), 2500, (3e-5, 1e-4, 3e-4, 1e-3)),
    "wide": ((768, 2, 12, 3072), 800, (3e-5, 1e-4, 3e-4)),
}
TRAIN, DEV, LENGTH = 1500, 600, 48
KEY = ("width", "state", "data", "pooling", "learning_rate", "epochs", "seed")


def texts(folder: Path) -> Path:
    """Write the data sets as TSV files and prepare the corpus, unless that is done; returns the shards."""
    shards = folder / "shards"
    if shards.exists():
        return shards
    folder.mkdir(parents=True, exist_ok=True)
    for name, read in DATA_SETS.items():
        rows = read()
        write_tsv(rows[:TRAIN], folder / f"{name}-train.tsv")
        write_tsv(rows[TRAIN : TRAIN + DEV], folder / f"{name}-dev.tsv")
    text = folder / "corpus.txt"
    text.write_text("\n\n".join("\n".join(document) for document in corpus()) + "\n", "utf-8")
    prepare(PrepareOptions(input=(str(text),), output=str(shards), train_vocab=8000, workers=1))
    return shards


def backbones(folder: Path, width: str) -> dict[str, Path]:
    """The checkpoints of a width by state; pretrains them if they are missing."""
    (hidden, layers, heads, intermediate), steps, _ = WIDTHS[width]
    barely, run, shards = steps // 50, folder / width, texts(folder)
    found = {"barely": run / f"checkpoint-{barely}", "well": run / f"checkpoint-{steps}"}
    if not found["well"].exists():
        shutil.rmtree(run, ignore_errors=True)
        config = AlbertConfig(
            hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=intermediate,
            vocab_size=load_tokenizer(shards).vocab_size, max_position_embeddings=128, hidden_act="gelu_new",
        )  # fmt: skip
        torch.manual_seed(0)
        AlbertForPreTraining(config).save_pretrained(folder / f"{width}-start", tokenizer_from=shards)
        pretrain(
            RunOptions(data=str(shards), output=str(run), save_steps=barely, keep_checkpoints=steps, logging_steps=20),
            ModelOptions(config=str(folder / f"{width}-start")),
            DataConfig(tokens_per_batch=2048, max_seq_length=64, max_ngram=1, loader_threads=1),
            TrainConfig(optimizer="adamw", max_steps=steps, warmup_steps=steps // 20, learning_rate=1e-3, device="cpu"),
        )
        for checkpoint in run.glob("checkpoint-*"):
            if checkpoint not in found.values():
                shutil.rmtree(checkpoint)
    return found


def measure(folder: Path, point: dict[str, Any], model: Path) -> dict[str, Any]:
    """Fine-tune one point of the sweep; returns its scores per epoch and the best accuracy."""
    output = folder / "point-{width}-{state}-{data}-{pooling}-{learning_rate}-{epochs}-{seed}".format(**point)
    shutil.rmtree(output, ignore_errors=True)
    options = FinetuneOptions(
        model=str(model), output=str(output), max_seq_length=LENGTH, logging_steps=10, save_steps=10**6, json=True,
        train=str(folder / f"{point['data']}-train.tsv"), dev=str(folder / f"{point['data']}-dev.tsv"),
        pooling=point["pooling"], learning_rate=point["learning_rate"], epochs=point["epochs"], seed=point["seed"],
    )  # fmt: skip
    with redirect_stdout(StringIO()):
        finetune(options, ColumnOptions(), DeviceOptions(device="cpu"))
    lines = [line for line in read_metrics(output) if "dev_accuracy" in line]
    shutil.rmtree(output)
    accuracies = [line["dev_accuracy"] for line in lines]
    return {**point, "accuracy": max(accuracies), "accuracies": accuracies, "losses": [li["dev_loss"] for li in lines]}


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().split("\n") if line] if RESULTS.exists() else []


def table() -> str:
    """Markdown table of held-out accuracy by learning rate, one row per width, state, data set, pooling and epochs."""
    measured: dict[tuple[Any, ...], dict[float, float]] = {}
    for row in rows():
        line = measured.setdefault((*(row[name] for name in KEY[:4]), row["epochs"]), {})
        line[row["learning_rate"]] = row["accuracy"]
    rates = sorted({rate for line in measured.values() for rate in line})
    head = ["width", "pretrained", "data", "pooling", "epochs", *(f"{rate:g}" for rate in rates)]
    lines = []
    for key, line in sorted(measured.items()):
        best = max(line.values())
        cells = (f"**{line[r]:.3f}**" if line.get(r) == best else f"{line[r]:.3f}" if r in line else "" for r in rates)
        lines.append([*map(str, key), *cells])
    return "\n".join(markdown_lines(head, "l" * len(head), lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("sweep"), help="folder of models and texts, reused if present"
    )
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--states", nargs="+", choices=("barely", "well"), default=["barely", "well"])
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    parser.add_argument("--pooling", nargs="+", choices=("first", "mean"), default=["mean", "first"])
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates (default: those of the width)")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of results and exit")
    options = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    if options.table:
        print(table())
        return
    for width in options.widths:
        found = backbones(options.folder, width)
        grid = product(
            options.data, options.states[::-1], options.epochs, options.pooling, options.rates or WIDTHS[width][2]
        )
        for data, state, epochs, pooling, rate in grid:
            point = dict(zip(KEY, (width, state, data, pooling, rate, epochs, options.seed), strict=True))
            if not any(all(row[name] == point[name] for name in KEY) for row in rows()):
                row = measure(options.folder, point, found[state])
                with RESULTS.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
