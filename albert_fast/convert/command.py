"""Weights in from TensorFlow, HuggingFace and albert_pytorch, out to a folder of ours or of HuggingFace's.

Every variable of a source is used, skipped for a stated reason or refused by name, and every parameter of ours is
filled: nothing is left out or made up in silence.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.convert.compare import check_recorded
from albert_fast.convert.files import find_checkpoint, find_config
from albert_fast.convert.huggingface import export_huggingface
from albert_fast.convert.pytorch import read_pytorch
from albert_fast.convert.source import Source
from albert_fast.convert.tensorflow import read_tensorflow
from albert_fast.data.tokenizer import Tokenizer, load_tokenizer
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, UserError, check_choice, note, option
from albert_fast.pretrained import checkpoint_folder
from albert_fast.sharing import unshare

_HEADS = ("albert.pooler.", "mlm_head.", "sop_head.")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """What to read, what to write, and what to compare with."""

    checkpoint: str = option(help="TensorFlow prefix, .safetensors or .bin file, or the folder of one", positional=True)
    output: str = option(help="folder to write; new or empty")
    config: str | None = option(None, "the checkpoint's JSON config (the one beside it)")
    to: Literal["albert_fast", "huggingface"] = option("albert_fast", "format to write: albert_fast or huggingface")
    share_type: str | None = option(None, "give layers their own copies: ffn, attention or None (as in the checkpoint)")
    vocab: str | None = option(
        None, "vocab.txt or tokenizer.json to lay beside the weights (the one beside the source)"
    )
    check: str | None = option(None, "recorded outputs (.npz) of the original to compare with; exit code 2 if unequal")
    tolerance: float | None = option(None, "largest absolute difference that --check accepts (1e-5; 5e-5 with preln)")
    new_heads: bool = option(False, "start heads that the source lacks from random weights instead of refusing")


def convert(options: ConvertOptions) -> None:
    """Bring in the weights of albert_zh, Google's ALBERT, albert_pytorch or HuggingFace, or write ours for HuggingFace.

    The source is recognised. What is missing, unknown, damaged or unequal is named, and then nothing is written.
    """
    output = Path(options.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output {output} exists and is not an empty folder; give a new one")
    source = read_checkpoint(checkpoint_folder(options.checkpoint), options.config)
    share_type = options.share_type or source.wanted_share_type
    check_choice("share_type", share_type, ("all", "ffn", "attention", "None"))
    target = source.config.replace(share_type=share_type)
    print(f"{source.path}: {source.project}, layout {source.config.layout}, share_type={source.config.share_type}")
    for remark in source.remarks:
        print(f"  {remark}")
    model = source.model_class(target).eval()
    weights = fill(source, options.new_heads)
    model.load_weights(unshare(weights, source.config, target, set_index=source.set_index), str(source.path))
    if options.check is not None:
        if not isinstance(model, AlbertForPreTraining):
            raise UserError(f"check={options.check}: outputs are recorded of pretraining models; this is a classifier")
        check_recorded(model, Path(options.check), options.tolerance)

    tokenizer = _tokenizer(options.vocab, source.path.parent, target)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Made beside the output and renamed; what fails on the way takes it away with it.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        partial = Path(folder) / output.name
        partial.mkdir()
        if tokenizer is not None:
            tokenizer.save(partial)
        if options.to == "huggingface":
            export_huggingface(model, partial, tokenizer)
        else:
            model.save_pretrained(partial)
        os.replace(partial, output)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{output}: {count:,} parameters, {target.ln_type}, share_type={share_type}, for {options.to}")


def read_checkpoint(path: Path, config: str | None) -> Source:
    """The checkpoint at `path`: a TensorFlow prefix, a weights file, or the folder of either."""
    file = find_checkpoint(path)
    asked = AlbertConfig.from_pretrained(find_config(config, file.parent))
    read = read_tensorflow if file.suffix == ".index" else read_pytorch
    return _with_class_names(read(file, asked))


def _with_class_names(source: Source) -> Source:
    """Numbers for names where a classifier's config has none; the other projects' often have not."""
    if "classifier.weight" in source.weights and not source.config.extra.get("id2label"):
        names = {str(i): str(i) for i in range(source.weights["classifier.weight"].shape[0])}
        source.config = source.config.replace(extra={**source.config.extra, "id2label": names})
        source.remarks.append(f"the config names no classes; they are called {', '.join(names)}")
    return source


def fill(source: Source, new_heads: bool = False) -> dict[str, Tensor]:
    """Our state dict (fp32) for the source's own config, with every mismatch of names and shapes in one error."""
    with torch.device("meta"):
        expected = source.model_class(source.config).state_dict()
    state: dict[str, Tensor] = {}
    unfilled: list[str] = []
    misshaped: list[str] = []
    used: set[str] = set()
    for ours, parameter in expected.items():
        theirs = source.names.get(ours, (ours,))
        if any(name not in source.weights for name in theirs):
            unfilled.append(ours)
            continue
        used.update(theirs)
        state[ours] = torch.cat([source.weights[name] for name in theirs]).float()
        if state[ours].shape != parameter.shape:
            shapes = f"{list(state[ours].shape)}, by the config {list(parameter.shape)}"
            misshaped.append(f"{' + '.join(theirs)} {shapes}")
    if new_heads:
        with torch.random.fork_rng():
            torch.manual_seed(42)
            initial = source.model_class(source.config).state_dict()
        fresh = [ours for ours in unfilled if ours.startswith(_HEADS)]
        unfilled = [ours for ours in unfilled if ours not in fresh]
        state.update({ours: initial[ours] for ours in fresh})
        note(f"{source.path} lacks {', '.join(fresh) or 'no head'}{'; they start at random' if fresh else ''}")
    wanted = [name for ours in unfilled for name in source.names.get(ours, (ours,)) if name not in source.weights]
    heads = unfilled and all(ours.startswith(_HEADS) for ours in unfilled)
    problems = {
        "lacks": wanted + (["so use --new_heads to start them at random"] if heads else []),
        "holds, unused,": [name for name in source.weights if name not in used],
        "has shapes": misshaped,
    }
    if any(problems.values()):
        text = "; ".join(f"{what} {', '.join(names)}" for what, names in problems.items() if names)
        raise UserError(f"{source.path} does not fit its config as {source.project}: it {text}")
    return state


def _tokenizer(given: str | None, folder: Path, config: AlbertConfig) -> Tokenizer | None:
    """The given vocabulary, or the one beside the source; None, with a note, where there is none."""
    if given is None and not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        note(f"no vocabulary in {folder}: the output reads ids but no text; give one with --vocab")
        return None
    tokenizer = load_tokenizer(given or folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"vocab {given or folder} has {tokenizer.vocab_size} tokens, more than the checkpoint's "
            f"vocab_size={config.vocab_size}; give its own with --vocab"
        )
    return tokenizer
