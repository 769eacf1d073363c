"""Saving and loading a model's folder: config.json, model.safetensors and the tokenizer's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from albert_fast.config import AlbertConfig
from albert_fast.files import file_crc, whole_file, write_file, write_json
from albert_fast.ops import Ops, get_ops
from albert_fast.options import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS, CONFIG = "model.safetensors", "config.json"
INDEX = "checkpoint.json"  # in a pretraining checkpoint: the CRC32C of every other file
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


class PretrainedModel(nn.Module):
    """Base class of models that are built from an AlbertConfig and ops, saved to a folder and loaded from it."""

    def __init__(self, config: AlbertConfig, ops: str | Ops = "torch"):
        super().__init__()
        self.config = config
        self.ops = ops if isinstance(ops, Ops) else get_ops(ops)

    @classmethod
    def from_pretrained(cls, directory: str | Path, ops: str | Ops = "torch", **overrides: Any) -> Self:
        """Load the model saved in `directory`; `overrides` may change its config (ln_type, dropout), not its shapes."""
        directory = checkpoint_folder(directory)
        config, weights = AlbertConfig.from_pretrained(directory, **overrides), read_weights(directory)
        model = cls(config, ops)
        model.load_weights(weights, str(directory))
        return model

    def load_weights(self, weights: dict[str, Tensor], source: str) -> None:
        """Load every parameter from `weights`; UserError lists names and shapes that do not match."""
        own = self.state_dict()
        wrong = [f"{name} is missing" for name in own if name not in weights]
        wrong += [f"{name} is unknown" for name in weights if name not in own]
        wrong += [
            f"{name} has shape {list(weights[name].shape)}, the config says {list(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ]
        if wrong:
            raise UserError(f"{source} does not fit its config: {'; '.join(wrong)}")
        self.load_state_dict(weights)

    def save_pretrained(self, directory: str | Path, tokenizer_from: str | Path | None = None) -> None:
        """Write config.json and model.safetensors (fp32), and copy the tokenizer's files from `tokenizer_from`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        save_tensors({name: tensor.float() for name, tensor in self.state_dict().items()}, directory / WEIGHTS)
        save_config(self.config, directory)
        if tokenizer_from is not None:
            copy_tokenizer(Path(tokenizer_from), directory)


def checkpoint_folder(directory: str | Path) -> Path:
    """The newest checkpoint of a pretraining run, or `directory` itself; UserError if the run has no checkpoint."""
    directory = Path(directory)
    newest = directory / "last"
    if newest.is_file():
        named = newest.read_text(errors="replace").strip()
        if not named or not (directory / named).is_dir():
            raise UserError(f"{newest} names {named!r}, which does not exist; give the folder of a checkpoint instead")
        return directory / named
    if (directory / "options.json").is_file() and not (directory / CONFIG).is_file():
        raise UserError(
            f"{directory} is a pretraining run without a checkpoint yet; one is written after --save_steps steps, or "
            "when the run is stopped with Ctrl-C"
        )
    return directory


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of `directory`'s model.safetensors, checked against the CRC32C in checkpoint.json, if any."""
    file, index = directory / WEIGHTS, directory / INDEX
    try:
        if index.exists() and _checksum(index) != file_crc(file):
            raise ValueError(f"damaged: its checksum is not the one in {INDEX}")
        weights = load_file(file)
    except Exception as error:  # safetensors has its own types for missing, truncated or foreign files
        raise UserError(f"{file}: {error}; give a folder that save_pretrained or `albert-fast convert` wrote") from None
    refuse_non_finite(weights, file)
    return weights


def _checksum(index: Path) -> int:
    try:
        return json.loads(index.read_text())["files"][WEIGHTS]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"damaged: {INDEX} beside it lacks its checksum") from None


def non_finite(tensors: Mapping[str, Tensor]) -> str:
    """The names of the first tensors with NaN or infinity; empty if all are finite."""
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def refuse_non_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """UserError if a tensor from `source` holds NaN or infinity."""
    if names := non_finite(tensors):
        raise UserError(f"{source} holds numbers that are not finite, in {names}; use an earlier checkpoint")


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy the tokenizer's files from `source`, if any."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            write_file(directory / name, (source / name).read_bytes())


def save_config(config: AlbertConfig, directory: Path) -> None:
    write_json(directory / CONFIG, config.to_dict())


def save_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically; tensors may share memory and be on any device."""
    with whole_file(file) as partial:
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(own, partial, {"format": "pt", **(metadata or {})})
