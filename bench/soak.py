"""A long run of a small model: memory, open files and threads must stay flat, and metrics must have no gap.

`python -m bench.soak` pretrains for 20,000 steps with checkpoints, evaluations and two resumes, and writes
bench/results/soak.json and soak.png. The exit code is 1 if something grows or is missing.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from albert_fast.config import DataConfig, ModelOptions, TrainConfig
from albert_fast.figures import save_figure, subplots
from albert_fast.files import strict_json
from albert_fast.metrics import read_metrics
from albert_fast.pretrain import pretrain
from albert_fast.run import RunOptions
from bench import machine
from bench.corpus import synthetic_folder

RESULTS = Path(__file__).parent / "results"
SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, embedding_size=16)
SECONDS_BETWEEN_SAMPLES = 0.5
MOST_GROWTH_BYTES = 16 << 20  # from the second to the last quarter of the run


def sample() -> dict[str, float]:
    """Memory, open files and threads of this process."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "seconds": time.monotonic(),
        "memory_bytes": int(fields["VmRSS"].split()[0]) * 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(fields["Threads"]),
    }


def soak(steps: int, folder: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """(samples, metrics) of a run of `steps` steps that is stopped and resumed after one and two thirds."""
    data = synthetic_folder(folder / "data", 400_000, 20, 0.8, 300)
    config = folder / "config.json"
    config.write_text(strict_json({**SHAPE, "vocab_size": 300, "max_position_embeddings": 64}))
    samples, over = [sample()], threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS_BETWEEN_SAMPLES):
            samples.append(sample())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for turn, until in enumerate((steps // 3, 2 * steps // 3, steps)):
            run = RunOptions(
                data=str(data), output=str(folder / "run"), resume=turn > 0, save_steps=max(steps // 100, 1),
                logging_steps=20, eval_data=str(data), eval_steps=max(steps // 20, 1), eval_batches=4,
            )  # fmt: skip
            train = TrainConfig(max_steps=until, warmup_steps=10, learning_rate=1e-3, optimizer="adamw", device="cpu")
            shape = DataConfig(tokens_per_batch=256, max_seq_length=64, loader_threads=1)
            pretrain(run, ModelOptions(config=str(config)), shape, train)
    finally:
        over.set()
        watcher.join()
    return samples, read_metrics(folder / "run")


def judge(samples: list[dict[str, float]], lines: list[dict[str, float]]) -> list[str]:
    """Problems of the run: what grew, and gaps in the metrics; empty if there are none."""
    quarter = max(len(samples) // 4, 1)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    found = []
    for name, allowed in (("memory_bytes", MOST_GROWTH_BYTES), ("files", 0), ("threads", 0)):
        grown = np.median([x[name] for x in late]) - np.median([x[name] for x in early])
        if grown > allowed:
            found.append(f"{name} grew by {grown:,.0f}")
    steps = [int(line["step"]) for line in lines]
    if len(steps) != len(set(steps)) or set(range(20, steps[-1] + 1, 20)) - set(steps):
        found.append("the metrics have a gap or a repeated step")
    return found


def draw(samples: list[dict[str, float]], lines: list[dict[str, float]], file: Path) -> None:
    figure, axes = subplots(4, width=9, height=9)
    seconds = [x["seconds"] - samples[0]["seconds"] for x in samples]
    for axis, (name, label, unit) in zip(
        axes, (("memory_bytes", "memory, MB", 1e6), ("files", "open files", 1), ("threads", "threads", 1)), strict=False
    ):
        axis.plot(seconds, [x[name] / unit for x in samples])
        axis.set(ylabel=label, xlabel="seconds", ylim=(0, None))
    axes[3].plot([x["step"] for x in lines], [x["mlm_loss"] for x in lines], linewidth=0.6)
    axes[3].set(ylabel="MLM loss, nats", xlabel="step")
    save_figure(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="steps in total (default: 20,000)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="result folder (default: bench/results)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples, lines = soak(options.steps, Path(folder))
    found = judge(samples, lines)
    document = {"bench": "soak", "machine": machine.describe("cpu"), "steps": options.steps, "found": found}
    document |= {"looks": samples[:: max(len(samples) // 200, 1)]}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "soak.json").write_text(strict_json(document, indent=1) + "\n")
    draw(samples, lines, options.output / "soak.png")
    print(f"{options.steps:,} steps: {'; '.join(found) or 'flat, without a gap'}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
