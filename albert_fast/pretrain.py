"""The pretraining loop: prepared folder -> batches -> steps -> checkpoints."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from albert_fast import checkpoint
from albert_fast.cards import find_card
from albert_fast.config import AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.data.batches import Batch, PretrainingLoader
from albert_fast.flops import step_flops
from albert_fast.health import Health
from albert_fast.metrics import MetricsLog
from albert_fast.options import compute_dtype, note
from albert_fast.ranks import ranks
from albert_fast.run import (
    RunFolder,
    RunOptions,
    build_model,
    check_trainable,
    check_vocabulary,
    model_config,
    saved_options,
)
from albert_fast.step import TrainStep
from albert_fast.stop import Stop

__all__ = ["RunOptions", "open_loader", "pretrain", "saved_options"]  # cli reads saved_options from this module
EVAL_SEED = 20190926
CPU_FLOPS_PER_THREAD = 4e10  # fp32 matrix products on one server core, roughly
SLOW_STEP_SECONDS = 20


def pretrain(run: RunOptions, model: ModelOptions, data: DataConfig, train: TrainConfig) -> None:
    """Pretrain ALBERT on a prepared folder: masked tokens and sentence order, on packed batches.

    A step processes tokens_per_batch x gradient_accumulation_steps x ranks tokens. Run on several GPUs with `torchrun
    --nproc-per-node=W -m albert_fast pretrain ...`; the stream of micro-batches is the same for any number of ranks W.
    The default --layout zh (as in albert_zh) cannot be exported to HuggingFace; --layout google can.
    """
    with ranks(train.device) as (rank, world_size, device):
        _pretrain(run, model, data, train, rank, world_size, device)


def _pretrain(
    run: RunOptions, model: ModelOptions, data: DataConfig, train: TrainConfig,
    rank: int, world_size: int, device: torch.device,
) -> None:  # fmt: skip
    folder = RunFolder(run, asdict(run) | asdict(model) | asdict(data) | asdict(train))
    output, step = folder.path, folder.step
    with (
        open_loader(run.data, data, train.seed, rank, world_size, cursor=folder.cursor) as loader,
        ExitStack() as at_end,
    ):
        config = model_config(model, folder, run, loader)
        check_trainable(config, data)
        folder.check(config, model, run, loader)
        if run.eval_data:  # fail here rather than at the first evaluation
            with _held_out_loader(run, data, loader) as held_out:
                check_vocabulary(held_out.corpus.vocabulary_fingerprint, run.eval_data, loader, run)
        torch.manual_seed(train.seed)
        if train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required for deterministic cuBLAS
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        cursor, first = loader.cursor(), next(loader)
        implementations: dict[str, str] = {}
        train_step = TrainStep(
            build_model(config, run, train, folder).to(device), first, data.max_seq_length, train,
            compute_dtype(train.precision, device.type), rank, world_size,
            lambda step: implementations.update(_tune(run, train, step, folder)),
        )  # fmt: skip
        at_end.callback(train_step.close)
        if folder.checkpoint:
            folder.checkpoint.load_into(train_step)
        if world_size > 1:
            dist.barrier()  # all ranks must have read the folder before rank 0 writes to it
        with (
            folder.opened(run, loader, implementations) if rank == 0 else nullcontext(),
            MetricsLog(output, train.max_steps, step, visible=rank == 0) as log,
            Stop(world_size) as stop,
        ):
            if rank == 0:
                _describe(config, data, train, world_size, train_step, folder, loader)
            skipped = int(train_step.optimizer.steps - train_step.optimizer.updates)
            health = Health(train, run.max_skipped_updates, step, skipped, log.say)
            batches, saved = health.counting(chain([first], loader)), step if folder.checkpoint else None
            logged = step

            def log_metrics(step: int, cursor: dict[str, Any], evaluating: bool = False) -> None:
                metrics = {"epoch": cursor["epoch"], **log.timed(train_step.read_metrics(bool(stop.received)))}
                metrics |= _utilization(metrics["tokens_per_second"] / world_size, config, loader, device)
                stop.agree(metrics.pop("stops"))
                if train.log_tensors:
                    metrics |= train_step.optimizer.read_ratios()
                if evaluating:
                    with log.paused():
                        scores = train_step.evaluate(_held_out(run, data, loader, rank, world_size))
                    metrics |= {f"eval_{name}": value for name, value in scores.items()}
                log.write(step, metrics)
                health.check(step, metrics)

            def save(step: int, cursor: dict[str, Any]) -> None:
                position = {"cursor": cursor, "tokens": cursor["index"] * data.tokens_per_batch}
                position["implementations"] = implementations
                checkpoint.save(output, step, train_step, position, Path(run.data), run.keep_checkpoints)

            while step < train.max_steps and not stop.agreed:
                if not train_step(stop.between(islice(batches, train.gradient_accumulation_steps))):
                    break  # a signal came between micro-batches: a resumed run repeats the step
                step, cursor = step + 1, loader.cursor()
                log.advance(step)
                last = step == train.max_steps or stop.agreed
                saving = last or step % run.save_steps == 0
                evaluating = bool(run.eval_data) and (last or step % run.eval_steps == 0)
                # A line for every checkpoint too, so that a run resumed from it counts every token.
                if saving or evaluating or step % run.logging_steps == 0:
                    log_metrics(step, cursor, evaluating)
                    logged, saving = step, saving or stop.agreed
                if rank == 0 and saving:
                    with log.paused():
                        save(step, cursor)
                    saved = step
            if rank == 0 and stop.agreed and saved != step:
                if logged != step:
                    log_metrics(step, cursor)
                save(step, cursor)
    if rank == 0:
        signal = stop.received or "a signal"
        ending = "done" if step >= train.max_steps else f"stopped by {signal}; resume with --resume"
        if folder.step >= train.max_steps:
            ending = f"max_steps={train.max_steps} was already reached; a larger --max_steps continues the run"
        print(f"step {step}: {ending}; {output / f'checkpoint-{step}'}")


def _tune(run: RunOptions, train: TrainConfig, step: TrainStep, folder: RunFolder) -> dict[str, str]:
    """Tune the step's kernels on a GPU; the chosen implementation of each problem, by name."""
    if step.key.device.type != "cuda" or train.ops == "torch":
        return {}
    from albert_fast.tuning.run import tune_step  # here, because it imports the kernels

    saved = folder.checkpoint.data.get("implementations", {}) if folder.checkpoint else {}
    return tune_step(step, run.tune, run.tune_seconds, saved)


def open_loader(
    folder: str, data: DataConfig, seed: int, rank: int = 0, world_size: int = 1, **more: Any
) -> PretrainingLoader:
    """The loader with these options; `more` are further arguments of PretrainingLoader."""
    given = dict(seed=seed, rank=rank, world_size=world_size, threads=data.loader_threads)
    return PretrainingLoader(folder, **given, **data.settings() | more)  # type: ignore[arg-type]


def _held_out_loader(
    run: RunOptions, data: DataConfig, training: PretrainingLoader, rank: int = 0, world_size: int = 1
) -> PretrainingLoader:
    """The loader of --eval_data, with batches of the same shapes as the training loader's."""
    room = dict(max_sequences=training.max_sequences, predictions_per_batch=training.predictions_per_batch)
    return open_loader(str(run.eval_data), data, EVAL_SEED, rank, world_size, **room)


def _held_out(
    run: RunOptions, data: DataConfig, training: PretrainingLoader, rank: int, world_size: int
) -> Iterator[Batch]:
    """This rank's share of the first eval_batches micro-batches of --eval_data, the same in every evaluation."""
    with _held_out_loader(run, data, training, rank, world_size) as loader:
        for batch in loader:
            if batch.index >= run.eval_batches or batch.epoch > 0:
                return
            yield batch


def _utilization(
    tokens_per_second: float, config: AlbertConfig, loader: PretrainingLoader, device: torch.device
) -> dict[str, float]:
    """FLOP/s of one rank's matrix products, including attention, and their fraction of the GPU's peak (mfu)."""
    tokens = loader.tokens_per_batch
    flops = step_flops(config, tokens, loader.max_seq_length, loader.max_sequences, loader.predictions_per_batch)
    rate = tokens_per_second * flops / tokens
    card = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return {"flops_per_second": rate, **({"mfu": rate / card.peak_flops} if card else {})}


def _describe(
    config: AlbertConfig, data: DataConfig, train: TrainConfig, world_size: int, train_step: TrainStep,
    folder: RunFolder, loader: PretrainingLoader,
) -> None:  # fmt: skip
    """Notes at the start: model, device, size of a step, and limitations the user should know beforehand."""
    parameters = sum(p.numel() for p in train_step.model.parameters())
    micro_batches = train.gradient_accumulation_steps * world_size
    where = f"{world_size} x {train_step.key.device.type}, {str(train_step.flat.compute.dtype).removeprefix('torch.')}"
    shape = f"{parameters:,} parameters ({config.layout}, {config.ln_type}, share_type {config.share_type})"
    tokens = micro_batches * data.tokens_per_batch
    size = f"{micro_batches} x {data.tokens_per_batch:,} = {tokens:,} tokens"
    note(f"{shape} on {where}; a step is {size}, an epoch about {loader.corpus.num_tokens / tokens:,.1f} steps")
    if config.layout == "zh" and not folder.checkpoint:
        note("layout zh (as in albert_zh) cannot be exported to HuggingFace; --layout google can")
    shapes = (loader.tokens_per_batch, loader.max_seq_length, loader.max_sequences, loader.predictions_per_batch)
    flops = step_flops(config, *shapes) * train.gradient_accumulation_steps
    seconds = flops / (CPU_FLOPS_PER_THREAD * torch.get_num_threads())
    if train_step.key.device.type == "cpu" and seconds > SLOW_STEP_SECONDS:
        duration = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
        note(
            f"a step takes about {duration} here ({torch.get_num_threads()} CPU threads); for experiments, --config "
            "tiny --tokens_per_batch 2048 --max_seq_length 128"
        )
    if folder.checkpoint:
        note(f"resumed from {folder.checkpoint.directory} at micro-batch {folder.checkpoint.data['cursor']['index']:,}")
    if folder.before and folder.before["max_steps"] != train.max_steps:
        note(
            f"max_steps={train.max_steps:,} instead of {folder.before['max_steps']:,}: the learning rate follows the "
            f"new schedule from step {folder.step:,} on ({train.warmup_steps:,} steps of warmup, 0 at max_steps)"
        )
