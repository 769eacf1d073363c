"""`albert-fast demo`: the whole path, text to a model that fills masked words, in about two minutes on two cores."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from albert_fast.config import DataConfig, ModelOptions, TrainConfig
from albert_fast.data.prepare import PrepareOptions, prepare
from albert_fast.data.tokenizer import load_tokenizer
from albert_fast.downstream.predict import fill_masks
from albert_fast.metrics import plot_losses, read_metrics
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, UserError, option
from albert_fast.pretrain import RunOptions, pretrain
from albert_fast.pretrained import checkpoint_folder

SENTENCES = (
    "The function returns a new [MASK] object.",
    "If the argument is omitted, the default [MASK] is used.",
    "An exception is [MASK] when the value is not found.",
    "The [MASK] statement is used to define a function.",
)

# The file that says that a folder is a demo's, which the next may replace.
MARK, PLOT = ".albert_fast_demo", "loss.png"


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """The demo: where it writes, and how long it trains."""

    output: str = option("demo", "folder to write; an earlier demo in it is replaced", metavar="DIR")
    steps: int = option(260, "optimizer steps of 2,048 tokens")
    config: str = option("tiny", "preset or config file of the model")
    vocab_size: int = option(4096, "tokens of the vocabulary to train")


def demo(options: DemoOptions) -> None:
    """Pretrain an ALBERT-tiny on the Python documentation that ships with CPython, and look at what it learned."""
    console, root, steps = Console(), Path(options.output), options.steps
    run, shards, text = root / "run", root / "data", root / "text.txt"
    whole = (  # made first: what they refuse is refused before anything is removed
        RunOptions(data=str(shards), output=str(run), save_steps=steps, logging_steps=max(steps // 40, 1)),
        ModelOptions(config=options.config),
        DataConfig(tokens_per_batch=2048, max_seq_length=128),
        TrainConfig(max_steps=steps, warmup_steps=steps // 10, optimizer="adamw", learning_rate=1e-3),
    )
    whole[1].build()
    found = {path.name for path in root.iterdir()} if root.exists() else set()
    if found and not (MARK in found and found <= {MARK, text.name, shards.name, run.name, PLOT}):
        raise UserError(f"output={root} holds files that no demo wrote; give another folder")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / MARK).touch()

    console.rule("1. text: the topics of Python's own help, a sentence a line")
    text.write_text(python_topics(), encoding="utf-8")
    console.print(f"{text}: {text.stat().st_size / 1e6:.1f} MB")

    console.rule("2. prepare: train a vocabulary, write token shards")
    prepare(PrepareOptions(input=(str(text),), output=str(shards), train_vocab=options.vocab_size))

    console.rule("3. pretrain")
    begun = time.perf_counter()
    pretrain(*whole)
    seconds = time.perf_counter() - begun

    console.rule("4. what it learned: masked words filled in")
    checkpoint = checkpoint_folder(run)
    model, tokenizer = AlbertForPreTraining.from_pretrained(checkpoint), load_tokenizer(checkpoint)
    for sentence in SENTENCES:
        guesses = fill_masks(model, tokenizer, sentence, top=4)[0]
        best = ", ".join(f"{token} {probability:.0%}" for token, probability in guesses)
        console.print(f"  {sentence.replace('[MASK]', '____')}  [bold]{best}[/bold]", highlight=False)
    plot_losses(run, root / PLOT)

    lines = read_metrics(run)
    tokens = sum(line["tokens_per_second"] for line in lines) / len(lines)
    table = Table(title=f"{seconds:.0f} s of pretraining", show_header=False)
    for name, value in (
        ("steps", f"{steps}"),
        ("tokens", f"{steps * 2048:,}"),
        ("tokens/s", f"{tokens:,.0f}"),
        ("first MLM loss", f"{lines[0]['mlm_loss']:.2f} nats"),
        ("last MLM loss", f"{lines[-1]['mlm_loss']:.2f} nats"),
        ("loss curve", str(root / PLOT)),
        ("checkpoint", str(checkpoint)),
    ):
        table.add_row(name, value)
    console.print(table)
    console.print(
        "Next:\n"
        f"  albert-fast inspect {shards}                   # examples as the model sees them\n"
        f"  albert-fast fill-mask --model {run} --text 'the [MASK] statement'\n"
        "  albert-fast prepare --help                     # then your own text\n"
        "  albert-fast pretrain --help",
        highlight=False,
    )


def python_topics() -> str:
    """CPython's pydoc topics as running text: a sentence a line, a blank line between documents."""
    from pydoc_data.topics import topics

    documents = []
    for name in sorted(topics):
        paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", topics[name]))
        sentences = [s for p in paragraphs for s in re.split(r"(?<=[.!?:])\s+", p) if re.search(r"[a-z]{3}", s)]
        if sentences:
            documents.append("\n".join(sentences))
    return "\n\n".join(documents) + "\n"
