"""`albert-fast demo`: pretraining, memory per share_type and our ops against eager PyTorch, in about two minutes."""

import re
import shutil
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from albert_fast.config import AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.downstream.predict import fill_masks
from albert_fast.files import write_json
from albert_fast.health import frequency_loss
from albert_fast.measure.eager import time_ops
from albert_fast.measure.memory import MemoryOptions, memory
from albert_fast.metrics import read_metrics
from albert_fast.model import AlbertForPreTraining
from albert_fast.ops import get_ops
from albert_fast.options import Options, UserError, compute_dtype, device_kind, option
from albert_fast.plot import draw_runs
from albert_fast.pretrain import RunOptions, open_loader, pretrain
from albert_fast.pretrained import checkpoint_folder
from albert_fast.step import TrainStep
from albert_fast.text_tables import number_table

SENTENCES = (
    "The function returns a new [MASK] object.",
    "If the argument is omitted, the default [MASK] is used.",
    "An exception is [MASK] when the value is not found.",
    "The [MASK] statement is used to define a function.",
)
TOKENS, LENGTH = 1024, 64  # per micro-batch, per sequence
# Small enough to beat guessing by frequency within a minute on two CPU cores; ALBERT-tiny does not.
MODEL = dict(embedding_size=128, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
FEWEST_STEPS = 20
# MARK is the file that marks a folder as a demo's, which a later demo may replace.
MARK, CONFIG, LOSSES, MEMORY = ".albert_fast_demo", "config.json", "loss.png", "memory.png"


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Output, duration and model of the demo."""

    output: str = option("demo", "folder to write; an earlier demo in it is replaced", metavar="DIR")
    minutes: float = option(2.0, "approximate duration, which determines the number of training steps", above=0)
    config: str | None = option(None, "preset or config file of the model (default: 2 pre-LN layers of width 128)")
    vocab_size: int = option(4096, "size of the vocabulary to train", at_least=1)


def demo(options: DemoOptions) -> None:
    """The three jobs on a small scale: pretrain, profile memory per share_type, time our ops against eager PyTorch.

    The text is the Python documentation that ships with CPython.
    """
    begun, console, root = time.monotonic(), Console(), Path(options.output)
    run, shards, text = root / "run", root / "data", root / "text.txt"
    if options.config:
        ModelOptions(config=options.config).build()  # reject a bad config before removing anything
    found = {path.name for path in root.iterdir()} if root.exists() else set()
    if found and not (MARK in found and found <= {MARK, CONFIG, text.name, shards.name, run.name, LOSSES, MEMORY}):
        raise UserError(f"output={root} holds files that were not written by a demo; use another folder")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / MARK).touch()

    console.rule("1. text: the topics of Python's help, one sentence per line")
    text.write_text(python_topics(), encoding="utf-8")
    console.print(f"{text}: {text.stat().st_size / 1e6:.1f} MB")

    console.rule("2. prepare: train a vocabulary, write token shards")
    prepare(PrepareOptions(input=(str(text),), output=str(shards), train_vocab=options.vocab_size))
    if not options.config:
        write_json(root / CONFIG, {**MODEL, "ln_type": "preln", "vocab_size": load_tokenizer(shards).vocab_size})

    console.rule("3. pretrain")
    model = ModelOptions(config=options.config or str(root / CONFIG))
    data = DataConfig(tokens_per_batch=TOKENS, max_seq_length=LENGTH)
    left = 60 * options.minutes - (time.monotonic() - begun)
    steps = _fitting_steps(model, data, shards, 0.75 * left)  # the rest of the time is for the other two jobs
    train = TrainConfig(max_steps=steps, warmup_steps=steps // 10, optimizer="adamw", learning_rate=3e-3)
    where = RunOptions(data=str(shards), output=str(run), save_steps=steps, logging_steps=max(steps // 40, 1))
    pretrain(where, model, data, train)
    draw_runs([run], root / LOSSES)
    console.print(_learned(read_metrics(run), _by_frequency(shards, data)), _guesses(run), sep="\n")
    console.print(
        "In minutes, a CPU learns little more than which tokens are frequent and which occur together; a useful model "
        "takes billions of tokens.\n"
    )

    console.rule("4. memory of a training step per share_type: base, S=512, T=16,384, bf16, predicted for CUDA")
    memory(MemoryOptions(png=str(root / MEMORY)), ModelOptions(config="base", ln_type="postln"), DataConfig())

    console.rule("5. our ops against eager PyTorch on this device")
    console.print(_timings(run, device_kind("auto")))
    console.print(
        f"{time.monotonic() - begun:.0f} s in all. Plots: {root / LOSSES}, {root / MEMORY}.\nNext:\n"
        f"  albert-fast inspect {shards}                   # examples as the model sees them\n"
        f"  albert-fast fill-mask --model {run} --text 'the [MASK] statement'\n"
        "  albert-fast prepare --help                     # then your own text\n"
        "  albert-fast pretrain --help",
        highlight=False,
    )


def _fitting_steps(model: ModelOptions, data: DataConfig, shards: Path, seconds: float) -> int:
    """Number of optimizer steps that fit into `seconds`, estimated by timing a few on this machine."""
    train = TrainConfig(optimizer="adamw", capture="off")
    device = torch.device(device_kind("auto"))
    with open_loader(str(shards), data, train.seed) as loader:
        config = model.build(loader.corpus.vocab_size)
        first = next(loader)
        step = TrainStep(AlbertForPreTraining(config, train.ops).to(device), first, data.max_seq_length, train)
        step([first])
        begun, count = time.monotonic(), 10
        for batch in islice(loader, count):
            step([batch])
        step.read_metrics()  # waits for the device
        return max(int(seconds * count / (time.monotonic() - begun)), FEWEST_STEPS)


def _by_frequency(shards: Path, data: DataConfig) -> tuple[float, float]:
    """(loss in nats, accuracy) of guessing masked tokens by frequency alone."""
    with open_loader(str(shards), data, seed=1) as loader:
        ids = np.concatenate([batch.masked_lm_ids[: batch.num_predictions] for batch in islice(loader, 50)])
    counts = np.bincount(ids)
    return frequency_loss(counts), counts.max() / counts.sum()


def _learned(lines: list[dict[str, float]], by_frequency: tuple[float, float]) -> Table:
    tokens = fmean(line["tokens_per_second"] for line in lines)
    title = f"{lines[-1]['step']:,.0f} steps of {TOKENS:,} tokens, {tokens:,.0f} tokens/s"
    table = number_table(title, ("", "first steps", "last steps", "guessing by frequency"))
    loss, accuracy = by_frequency
    for label, name, guess, form in (
        ("loss, masked tokens, nats", "mlm_loss", loss, ".2f"),
        ("accuracy, masked tokens", "mlm_accuracy", accuracy, ".1%"),
        ("accuracy, sentence order", "sop_accuracy", 0.5, ".1%"),
    ):
        last = fmean(line[name] for line in lines[-3:])
        table.add_row(label, *(format(value, form) for value in (lines[0][name], last, guess)))
    return table


def _guesses(run: Path) -> Table:
    checkpoint = checkpoint_folder(run)
    model, tokenizer = AlbertForPreTraining.from_pretrained(checkpoint), load_tokenizer(checkpoint)
    table = Table(title="predictions for masked tokens", show_header=False)
    for sentence in SENTENCES:
        guesses = fill_masks(model, tokenizer, sentence, top=4)[0]
        best = ", ".join(f"{token} {probability:.0%}" for token, probability in guesses)
        table.add_row(sentence.replace("[MASK]", "____"), best)
    return table


def _timings(run: Path, kind: str) -> Table:
    config, device = AlbertConfig.from_pretrained(checkpoint_folder(run)), torch.device(kind)
    table = Table("op, forward and backward", "rows", "eager ms", "ours ms", "ratio")
    for timing in time_ops(config, TOKENS, get_ops(), device, compute_dtype("auto", kind)):
        milliseconds = (f"{1000 * seconds:.2f}" for seconds in (timing.eager_seconds, timing.our_seconds))
        table.add_row(timing.op, f"{timing.rows:,}", *milliseconds, f"{timing.ratio:.2f}x")
    return table


def python_topics() -> str:
    """CPython's pydoc topics as plain text: one sentence per line, a blank line between documents."""
    from pydoc_data.topics import topics

    documents = []
    for name in sorted(topics):
        paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", topics[name]))
        sentences = [s for p in paragraphs for s in re.split(r"(?<=[.!?:])\s+", p) if re.search(r"[a-z]{3}", s)]
        if sentences:
            documents.append("\n".join(sentences))
    return "\n\n".join(documents) + "\n"
