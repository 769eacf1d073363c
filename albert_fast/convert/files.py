"""Finds the files of a checkpoint and reads PyTorch's: .safetensors and .bin."""

import json
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from albert_fast.convert.inert import load_inert
from albert_fast.convert.unwrap import unwrap
from albert_fast.options import UserError, first_line

_WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_TORCH = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# Other files that HuggingFace's Trainer writes beside a model.
_NO_MODELS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth")
_POINTER = b"version https://git-lfs"


def find_checkpoint(path: Path) -> Path:
    """The file to read: PREFIX.index for TensorFlow, otherwise the weights file."""
    if path.is_dir():
        for name in _WEIGHT_FILES:
            if (path / name).is_file():
                return path / name
        if (path / "variables" / "variables.index").is_file():  # an unpacked TF-Hub module
            return path / "variables" / "variables.index"
        files = [file for file in sorted(path.iterdir()) if file.suffix in _TORCH and file.name not in _NO_MODELS]
        torch_files = [file for file in files if not file.name.endswith("_optim_states.pt")]  # of DeepSpeed
        indexes = sorted(path.glob("*.index"))
        if len(torch_files) == 1 and not indexes:
            return torch_files[0]
        latest = path / "checkpoint"  # TensorFlow's pointer to the newest one
        if len(indexes) > 1 and latest.is_file():
            named = re.search(r'^model_checkpoint_path: "(.*)"', latest.read_text(encoding="utf-8"), re.MULTILINE)
            indexes = [path / f"{Path(named[1]).name}.index"] if named else indexes
        if len(indexes) == 1:
            return indexes[0]
        names = [file.stem for file in indexes] + [file.name for file in torch_files]
        found = f"several checkpoints ({', '.join(names)})" if names else "no weights"
        remedy = ("the path of one, or " if names else "") + f"a folder with {' or '.join(_WEIGHT_FILES)}"
        raise UserError(f"{path} contains {found}; give {remedy}")
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    if Path(f"{prefix}.index").is_file() or prefix != str(path):
        return Path(f"{prefix}.index")
    if path.is_file():
        return path
    raise UserError(f"neither checkpoint {path} nor {path}.index exists; give a prefix, a weights file or a folder")


def folders_of(file: Path) -> list[Path]:
    """The folders that may hold a checkpoint's config and vocabulary: its own and, for TF-Hub modules, assets/."""
    hub = file.parent.parent / "assets"
    return [file.parent, hub] if file.parent.name == "variables" and hub.is_dir() else [file.parent]


def find_config(given: str | None, file: Path) -> Path:
    """The given config file, or the only one in the folders of the checkpoint `file`; UserError if ambiguous."""
    if given is not None:
        return Path(given)
    if (file.parent / "config.json").is_file():
        return file.parent / "config.json"
    found = [config for folder in folders_of(file) for config in sorted(folder.glob("*config*.json"))]
    found = [config for config in found if config.name not in ("tokenizer_config.json", "generation_config.json")]
    if len(found) == 1:
        return found[0]
    names = f"several ({', '.join(config.name for config in found)})" if found else "none"
    raise UserError(f"which config? {file.parent} has {names}; give one with --config")


def read_torch(file: Path, use_averages: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a .safetensors or .bin file, or of all files listed in a .index.json, and remarks on them."""
    try:
        if file.name.endswith(".index.json"):
            parts = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
            held: Any = {name: tensor for part in parts for name, tensor in _load(file.parent / part).items()}
        else:
            held = _load(file)
    except UserError:
        raise
    except Exception as error:  # each reader raises its own exception types
        if file.is_file() and file.open("rb").read(len(_POINTER)) == _POINTER:
            raise UserError(f"{file} is a Git LFS pointer; fetch the file itself with git lfs pull") from None
        raise UserError(f"{file} is damaged or not a weights file ({first_line(error)}); copy it again") from None
    return unwrap(held, file, use_averages)


def _load(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:  # it also contains objects other than tensors
        return load_inert(file)
