"""Checkpoints: written atomically and verified before use.

RUN/checkpoint-STEP/ holds what `from_pretrained` loads (config.json, model.safetensors, the tokenizer), the optimizer
state (optimizer.safetensors) and checkpoint.json: the position in the data and the CRC32C of every other file.
RUN/last names the newest checkpoint.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.files import file_crc, is_sealed, seal, whole_folder, write_file, write_json
from albert_fast.health import RunFailure
from albert_fast.options import UserError, note
from albert_fast.pretrained import (
    INDEX,
    WEIGHTS,
    copy_tokenizer,
    non_finite,
    refuse_non_finite,
    save_config,
    save_tensors,
)
from albert_fast.sharing import unshare
from albert_fast.step import TrainStep

OPTIMIZER = "optimizer.safetensors"


@dataclass
class Checkpoint:
    """An intact checkpoint: its folder, its step, and the position in the data."""

    directory: Path
    step: int
    data: dict[str, Any]

    def load_into(self, train_step: TrainStep) -> None:
        """Restore weights, optimizer state and dropout key bit for bit; share_type may have been loosened."""
        config = AlbertConfig.from_pretrained(self.directory)
        target = train_step.model.config
        weights, state = load_file(self.directory / WEIGHTS), load_file(self.directory / OPTIMIZER)
        refuse_non_finite(weights, self.directory / WEIGHTS)
        if config.share_type != target.share_type:
            weights = unshare(weights, config, target)
            # The gradient of a shared weight is the sum over its uses; an unshared weight has one use.
            for kind, power in (("exp_avg.", 1), ("exp_avg_sq.", 2)):
                moments = {name.removeprefix(kind): state.pop(name) for name in [*state] if name.startswith(kind)}
                moments = unshare(moments, config, target, power=power)
                state |= {f"{kind}{name}": tensor for name, tensor in moments.items()}
        flat = train_step.flat
        _copy(weights, flat.views(flat.master), self.directory / WEIGHTS)
        flat.cast()
        _copy(state, train_step.optimizer.state(), self.directory / OPTIMIZER)
        train_step.key[1] = self.data["cursor"]["index"] + train_step.rank


def save(run: Path, step: int, train_step: TrainStep, data: dict[str, Any], tokenizer_from: Path, keep: int) -> Path:
    """Write RUN/checkpoint-STEP, point RUN/last at it, and remove all but the newest `keep`.

    If the last update was skipped for a non-finite gradient, older checkpoints stay: the new weights may be the cause.

    Raises:
        RunFailure: a weight is not finite; nothing is written or removed.
        UserError: the file system failed; nothing is left of this checkpoint.
    """
    flat = train_step.flat
    if names := non_finite(flat.views(flat.master)):
        raise RunFailure(
            f"step {step}: weights are not finite ({names}), so no checkpoint is written; resume from the previous one "
            "(--resume) with a lower --learning_rate or a longer --warmup_steps"
        )
    final = run / f"checkpoint-{step}"
    with whole_folder(final, replace=True) as partial:  # a damaged checkpoint of the same step may exist
        save_tensors(flat.views(flat.master), partial / WEIGHTS)
        save_tensors(train_step.optimizer.state(), partial / OPTIMIZER)
        save_config(train_step.model.config, partial)
        copy_tokenizer(tokenizer_from, partial)
        index = {"step": step, "data": data, "files": {f.name: file_crc(f) for f in sorted(partial.iterdir())}}
        write_json(partial / INDEX, seal(index))
    write_file(run / "last", f"{final.name}\n")
    for old in sorted(_checkpoints(run))[:-keep] if torch.isfinite(train_step.optimizer.gradient_norm) else []:
        shutil.rmtree(run / f"checkpoint-{old}")
    return final


def find(run: Path) -> Checkpoint | None:
    """The newest intact checkpoint of RUN, or None; damaged ones are skipped with a note."""
    for step in sorted(_checkpoints(run), reverse=True):
        directory = run / f"checkpoint-{step}"
        try:
            return Checkpoint(directory, step, _verify(directory)["data"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            note(f"{directory} is damaged ({error}); falling back to the previous one")
    return None


def _verify(directory: Path) -> dict[str, Any]:
    index = dict(json.loads((directory / INDEX).read_text()))
    if not is_sealed(index):
        raise ValueError(f"{INDEX} fails its checksum")
    for name, checksum in index["files"].items():
        if file_crc(directory / name) != checksum:
            raise ValueError(f"{name} fails its checksum")
    return index


def _checkpoints(run: Path) -> list[int]:
    names = [path.name.removeprefix("checkpoint-") for path in run.glob("checkpoint-*")]
    return [int(name) for name in names if name.isdigit()]


def _copy(source: dict[str, Tensor], target: dict[str, Tensor], file: Path) -> None:
    if source.keys() != target.keys():
        names = ", ".join(sorted(source.keys() ^ target.keys())[:5])
        raise UserError(f"{file} does not fit this run's model ({names}, ...); resume with the original run's flags")
    for name, tensor in target.items():
        tensor.copy_(source[name])
