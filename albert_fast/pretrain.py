"""The pretraining loop: prepared folder -> batches -> step -> checkpoints, visible in one place."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from albert_fast import checkpoint
from albert_fast.config import PRESETS, AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.data.batches import Batch, PretrainingLoader
from albert_fast.data.tokenizer import load_tokenizer
from albert_fast.files import locked
from albert_fast.metrics import MetricsLog
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, UserError, compute_dtype, note, option
from albert_fast.pretrained import checkpoint_folder, read_weights
from albert_fast.ranks import ranks
from albert_fast.sharing import unshare
from albert_fast.step import TrainStep

OPTIONS, EVAL_SEED = "options.json", 20190926
# What makes a run the run it is: the micro-batches it sees, and the model (whose sharing may be loosened).
FIXED = (
    "data", "seed", "tokens_per_batch", "max_seq_length", "max_ngram", "masked_lm_prob", "max_predictions",
    "short_seq_prob", "sentence_order", "config", "init_from", "ln_type", "layout", "hidden_act",
    "hidden_dropout_prob", "final_layer_norm", "optimizer",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Where the text comes from, where the run goes, and what it leaves on the way."""

    data: str = option(help="folder that `albert-fast prepare` made", metavar="DIR")
    output: str = option(help="folder of the run: checkpoints, metrics.jsonl, TensorBoard", metavar="RUN")
    resume: bool = option(False, "go on from RUN's newest whole checkpoint; flags not given are those of the first run")
    init_from: str | None = option(
        None, "folder of a checkpoint whose weights (and config) to start from", metavar="DIR"
    )
    save_steps: int = option(1000, "steps between checkpoints; the last step is always saved", at_least=1)
    keep_checkpoints: int = option(3, "newest checkpoints to keep", at_least=1)
    logging_steps: int = option(10, "steps between log lines", at_least=1)
    eval_data: str | None = option(None, "prepared folder held out of training", metavar="DIR")
    eval_steps: int = option(
        1000, "steps between evaluations on --eval_data; the last step is always evaluated", at_least=1
    )
    eval_batches: int = option(
        20, "micro-batches of --eval_data in an evaluation, at most one epoch; masks are fixed", at_least=1
    )


def pretrain(run: RunOptions, model: ModelOptions, data: DataConfig, train: TrainConfig) -> None:
    """Pretrain ALBERT on a prepared folder: masked words and sentence order, on packed batches.

    A step takes tokens_per_batch x gradient_accumulation_steps x ranks tokens. Start several ranks with
    `torchrun --nproc-per-node=W -m albert_fast pretrain ...`; the stream of micro-batches is the same for any W.
    """
    with ranks(train.device) as place:
        _pretrain(run, model, data, train, *place)


def _pretrain(
    run: RunOptions, model: ModelOptions, data: DataConfig, train: TrainConfig,
    rank: int, world_size: int, device: torch.device,
) -> None:  # fmt: skip
    output = Path(run.output)
    options = asdict(run) | asdict(model) | asdict(data) | asdict(train)
    found = _open_run(output, run, options)
    start = found.data["cursor"] if found else None
    with open_loader(run.data, data, train.seed, rank, world_size, cursor=start) as loader, ExitStack() as at_end:
        config = _model_config(model, found, run, loader)
        check_trainable(config, data)
        if run.eval_data:  # asked now, not at the first evaluation
            with _held_out_loader(run, data, loader) as held_out:
                _check_vocabulary(held_out.corpus.vocabulary_fingerprint, run.eval_data, loader, run)
        torch.manual_seed(train.seed)
        if train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only with this
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        first = next(loader)
        train_step = TrainStep(
            _build(config, run, train, found).to(device), first, data.max_seq_length, train,
            compute_dtype(train.precision, device.type), rank, world_size,
        )  # fmt: skip
        at_end.callback(train_step.close)
        if found:
            found.load_into(train_step)
        step = found.step if found else 0
        if world_size > 1:
            dist.barrier()  # every rank has looked at the folder before one writes into it
        if rank == 0:
            output.mkdir(parents=True, exist_ok=True)
        batches, last = chain([first], loader), step >= train.max_steps
        with (
            locked(output, "checkpoints") if rank == 0 else nullcontext(),
            MetricsLog(output, train.max_steps, step, visible=rank == 0) as log,
            _StopSignal(world_size == 1) as stop,
        ):
            if rank == 0:
                _note_options(output, options)
                _describe(config, data, train, world_size, train_step, found, loader)
            while not last:
                train_step(islice(batches, train.gradient_accumulation_steps))
                step += 1
                last = step == train.max_steps or bool(stop.received)
                evaluating = run.eval_data and (last or step % run.eval_steps == 0)
                if last or evaluating or step % run.logging_steps == 0:
                    metrics = {"epoch": loader.cursor()["epoch"], **log.timed(train_step.read_metrics())}
                    if evaluating:
                        with log.paused():
                            scores = train_step.evaluate(_held_out(run, data, loader, rank, world_size))
                        metrics |= {f"eval_{name}": value for name, value in scores.items()}
                    log.write(step, metrics)
                if rank == 0 and (last or step % run.save_steps == 0):
                    with log.paused():
                        position = {"cursor": loader.cursor()}
                        checkpoint.save(output, step, train_step, position, Path(run.data), run.keep_checkpoints)
                log.advance(step)
    if rank == 0:
        ending = "done" if step >= train.max_steps else f"stopped by {stop.received}; go on with --resume"
        print(f"step {step}: {ending}; {output / f'checkpoint-{step}'}")


def saved_options(given: dict[str, Any]) -> dict[str, Any]:
    """What the run that --resume goes on with was given, for the flags that are not given again."""
    file = Path(given.get("output", "")) / OPTIONS
    if not given.get("resume") or not file.exists():
        return {}
    return _read_options(file)


def _read_options(file: Path) -> dict[str, Any]:
    try:
        options = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); start in another folder, with --init_from") from None
    if not isinstance(options, dict):
        raise UserError(f"{file} is damaged (it holds no object); start in another folder, with --init_from")
    return options


def _open_run(output: Path, run: RunOptions, options: dict[str, Any]) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from; refuses a folder that holds a run unless told to resume it, and then its flags."""
    held = output.exists() and any(output.iterdir())
    file = output / OPTIONS
    if held and not run.resume:
        raise UserError(f"output={output} holds files already; give --resume to go on, or another folder")
    if run.resume and not file.exists():
        raise UserError(f"output={output} holds no run to resume; leave --resume out to start one")
    found = checkpoint.find(output) if run.resume else None
    if run.resume:
        before = _read_options(file)
        for name in FIXED:
            if before.get(name) != options[name]:
                raise UserError(
                    f"{name}={options[name]} differs from the run's {before.get(name)}, and would make it another run; "
                    f"leave --{name} out or start in another folder"
                )
        if found is None:
            note(f"{output} holds no whole checkpoint; starting from step 0")
    return found


def _note_options(output: Path, options: dict[str, Any]) -> None:
    """Write what the run was given, once nothing can be refused any more: a refused run leaves no trace."""
    saved = {name: value for name, value in options.items() if name not in ("resume", "output")}
    (output / OPTIONS).write_text(json.dumps(saved, indent=2) + "\n")


def open_loader(
    folder: str, data: DataConfig, seed: int, rank: int = 0, world_size: int = 1, **more: Any
) -> PretrainingLoader:
    """The loader that these options mean; `more` are further arguments of PretrainingLoader."""
    return PretrainingLoader(
        folder,
        tokens_per_batch=data.tokens_per_batch,
        max_seq_length=data.max_seq_length,
        seed=seed,
        rank=rank,
        world_size=world_size,
        threads=data.loader_threads,
        max_ngram=data.max_ngram,
        masked_lm_prob=data.masked_lm_prob,
        max_predictions=data.max_predictions,
        short_seq_prob=data.short_seq_prob,
        sentence_order=data.sentence_order,
        **more,
    )


def _held_out_loader(
    run: RunOptions, data: DataConfig, training: PretrainingLoader, rank: int = 0, world_size: int = 1
) -> PretrainingLoader:
    """The loader of --eval_data, its batches of the shapes of the training loader's."""
    room = dict(max_sequences=training.max_sequences, predictions_per_batch=training.predictions_per_batch)
    return open_loader(str(run.eval_data), data, EVAL_SEED, rank, world_size, **room)


def _held_out(
    run: RunOptions, data: DataConfig, training: PretrainingLoader, rank: int, world_size: int
) -> Iterator[Batch]:
    """This rank's share of the first eval_batches micro-batches of --eval_data, the same every time."""
    with _held_out_loader(run, data, training, rank, world_size) as loader:
        for batch in loader:
            if batch.index >= run.eval_batches or batch.epoch > 0:
                return
            yield batch


def _model_config(
    model: ModelOptions,
    found: checkpoint.Checkpoint | None,
    run: RunOptions,
    loader: PretrainingLoader,
) -> AlbertConfig:
    """The model's config: the checkpoint's (sharing perhaps loosened) where there is one, else as the options say."""
    vocab_size = loader.corpus.vocab_size
    if found:
        saved = AlbertConfig.from_pretrained(found.directory)
        return saved.replace(share_type=model.share_type or saved.share_type)
    if run.init_from:
        source = checkpoint_folder(run.init_from)
        model = replace(model, config=str(source))
        _check_vocabulary(load_tokenizer(source).fingerprint, run.init_from, loader, run)
    config = model.build(**({"vocab_size": vocab_size} if model.config in PRESETS else {}))
    if config.vocab_size != vocab_size:
        raise UserError(
            f"vocab_size={config.vocab_size} of {model.config} does not match the {vocab_size} words that {run.data} "
            "was prepared with; prepare with that model's vocabulary, or give a config of this size"
        )
    return config


def _check_vocabulary(fingerprint: bytes, folder: str, loader: PretrainingLoader, run: RunOptions) -> None:
    if fingerprint != loader.corpus.vocabulary_fingerprint:
        raise UserError(
            f"the vocabulary of {folder} is not the one that {run.data} was prepared with: the same ids would mean "
            f"other words; prepare with the vocabulary of {folder}"
        )


def check_trainable(config: AlbertConfig, data: DataConfig) -> None:
    if data.max_seq_length > config.max_position_embeddings:
        raise UserError(
            f"max_seq_length={data.max_seq_length} is over the config's max_position_embeddings="
            f"{config.max_position_embeddings}; use at most that"
        )
    if config.attention_probs_dropout_prob > 0:
        raise UserError(
            f"attention_probs_dropout_prob={config.attention_probs_dropout_prob} cannot be trained here (flash "
            "attention on packed sequences has no dropout); set it to 0 and use hidden_dropout_prob"
        )
    if config.type_vocab_size < 2 and data.sentence_order:
        raise UserError(f"type_vocab_size={config.type_vocab_size} has no second segment; use 2 or --no-sentence_order")


def _build(
    config: AlbertConfig, run: RunOptions, train: TrainConfig, found: checkpoint.Checkpoint | None
) -> AlbertForPreTraining:
    model = AlbertForPreTraining(config, ops=train.ops)
    if run.init_from and not found:
        source = checkpoint_folder(run.init_from)
        weights = unshare(read_weights(source), AlbertConfig.from_pretrained(source), config)
        model.load_weights(weights, str(source))
    return model


def _describe(config, data, train, world_size, train_step, found, loader) -> None:
    parameters = sum(p.numel() for p in train_step.model.parameters())
    micro_batches = train.gradient_accumulation_steps * world_size
    where = f"{world_size} x {train_step.key.device.type}, {str(train_step.flat.compute.dtype).removeprefix('torch.')}"
    shape = f"{parameters:,} parameters ({config.layout}, {config.ln_type}, share_type {config.share_type})"
    tokens = micro_batches * data.tokens_per_batch
    size = f"{micro_batches} x {data.tokens_per_batch:,} = {tokens:,} tokens"
    note(f"{shape} on {where}; a step is {size}, an epoch about {loader.corpus.num_tokens / tokens:,.1f} steps")
    if found:
        note(f"resumed from {found.directory} at micro-batch {found.data['cursor']['index']:,}")


class _StopSignal:
    """Remembers SIGINT or SIGTERM, so that the step under way ends and is saved; a second SIGINT stops at once.

    Several ranks would see it at different steps and wait for each other: there torchrun ends them, and the newest
    checkpoint is what --resume goes on from.
    """

    def __init__(self, catch: bool) -> None:
        self.received, self.numbers = "", (signal.SIGINT, signal.SIGTERM) if catch else ()

    def __enter__(self) -> _StopSignal:
        self.before = {number: signal.signal(number, self) for number in self.numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self, number: int, _: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        note(f"{self.received}: finishing this step, then saving")
