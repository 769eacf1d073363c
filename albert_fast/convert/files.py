"""Finds a checkpoint's files and reads PyTorch's: .safetensors and .bin."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from albert_fast.options import UserError

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def find_checkpoint(path: Path) -> Path:
    """The file to read: PREFIX.index for TensorFlow, else the weights file."""
    if path.is_dir():
        for name in _WEIGHT_FILES:
            if (path / name).is_file():
                return path / name
        indexes = sorted(path.glob("*.index"))
        latest = path / "checkpoint"  # TensorFlow's note of the newest one
        if len(indexes) > 1 and latest.is_file():
            named = re.search(r'^model_checkpoint_path: "(.*)"', latest.read_text(encoding="utf-8"), re.MULTILINE)
            indexes = [path / f"{Path(named[1]).name}.index"] if named else indexes
        if len(indexes) == 1:
            return indexes[0]
        found = f"several checkpoints ({', '.join(file.stem for file in indexes)})" if indexes else "no weights"
        raise UserError(f"{path} holds {found}; give the prefix of one, or a folder with {', '.join(_WEIGHT_FILES)}")
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    if Path(f"{prefix}.index").is_file() or prefix != str(path):
        return Path(f"{prefix}.index")
    if path.is_file():
        return path
    raise UserError(
        f"checkpoint {path} does not exist, nor does {path}.index; give a prefix, a weights file or a folder"
    )


def find_config(given: str | None, folder: Path) -> Path:
    """The given config file, or the one that lies in `folder`; UserError where there are several or none."""
    if given is not None:
        return Path(given)
    if (folder / "config.json").is_file():
        return folder / "config.json"
    found = sorted(folder.glob("*config*.json"))
    found = [file for file in found if file.name not in ("tokenizer_config.json", "generation_config.json")]
    if len(found) == 1:
        return found[0]
    names = f"several ({', '.join(file.name for file in found)})" if found else "none"
    raise UserError(f"which config? {folder} holds {names}; give one with --config")


def read_torch(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .bin file, or of all those that a .index.json lists."""
    try:
        if file.name.endswith(".index.json"):
            parts = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
            return {name: tensor for part in parts for name, tensor in read_torch(file.parent / part).items()}
        if file.suffix == ".safetensors":
            weights = load_file(file)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # each reader has its own kinds for files that are missing, cut or foreign
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} is damaged or holds more than tensors: {reason}") from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        held = ", ".join(map(str, weights)) if isinstance(weights, dict) else type(weights).__name__
        raise UserError(f"{file} is no state dict (it holds {held[:200]}); save model.state_dict() alone")
    if all(name.startswith("module.") for name in weights):  # saved from DataParallel
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return dict(weights)
