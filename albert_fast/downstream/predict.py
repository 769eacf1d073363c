"""Mask filling and text embeddings from a trained model."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.downstream.texts import encode_texts, mean_vectors
from albert_fast.files import strict_json, whole_file
from albert_fast.model import AlbertForPreTraining, AlbertModel
from albert_fast.options import DeviceOptions, Options, UserError, option
from albert_fast.packed import Packed
from albert_fast.pretrained import checkpoint_folder, read_weights


@dataclass(frozen=True, kw_only=True)
class FillMaskOptions(Options):
    """Model and texts."""

    model: str = option(help="folder of a pretrained model and its vocabulary, or of a pretraining run", metavar="DIR")
    text: tuple[str, ...] | None = option(None, "texts with [MASK] at the tokens to predict (lines of standard input)")
    top: int = option(5, "number of predictions to show for each [MASK]", at_least=1)
    json: bool = option(False, "print the predictions as a JSON document")


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(Options):
    """Model, texts (--input or --text) and output file."""

    model: str = option(help="folder of a model and its vocabulary, or of a pretraining run", metavar="DIR")
    input: str | None = option(None, "UTF-8 file, one text per line; an empty line is an empty text", metavar="FILE")
    text: tuple[str, ...] | None = option(None, "texts, instead of --input")
    output: str = option(help=".npy file to write: float32 [texts, hidden_size]", metavar="FILE")
    pooling: Literal["mean", "pooled"] = option("mean", "mean over all token vectors, or the pooler's output for [CLS]")
    max_seq_length: int | None = option(None, "truncate texts to this many tokens (the model's maximum)", at_least=3)
    batch_size: int = option(64, "texts per forward pass", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.input is None) == (self.text is None):
            raise UserError("give texts with either --input FILE (one per line) or --text, not both")


def fill_mask(options: FillMaskOptions, where: DeviceOptions) -> None:
    """Show the most likely tokens for every [MASK] in the texts."""
    device, dtype = where.resolve()
    folder = checkpoint_folder(options.model)
    model = AlbertForPreTraining.from_pretrained(folder, ops=where.ops).to(device, dtype)
    tokenizer = load_tokenizer(folder)
    texts = options.text if options.text is not None else [line for line in sys.stdin.read().split("\n") if line]
    filled = [fill_masks(model, tokenizer, text, options.top) for text in texts]
    if options.json:
        rows = [{"text": text, "masks": [dict(gap) for gap in gaps]} for text, gaps in zip(texts, filled, strict=True)]
        print(strict_json(rows, ensure_ascii=False))
        return
    for text, gaps in zip(texts, filled, strict=True):
        console = Console()
        console.print(text, markup=False, highlight=False, soft_wrap=True)  # a table title would wrap
        table = Table(*(f"[MASK] {i}" for i in range(1, len(gaps) + 1)))
        for row in zip(*gaps, strict=True):
            table.add_row(*(f"{escape(token)}  {_shown(probability)}" for token, probability in row))
        console.print(table)


def embed(options: EmbedOptions, where: DeviceOptions) -> None:
    """Write one vector per text to a .npy file."""
    device, dtype = where.resolve()
    folder = checkpoint_folder(options.model)
    config, tokenizer = AlbertConfig.from_pretrained(folder), load_tokenizer(folder)
    model = AlbertModel(config, where.ops)
    weights = read_weights(folder)
    model.load_weights({name: w for name, w in weights.items() if name.startswith("albert.")}, str(folder))
    model.to(device, dtype)
    lines = _lines(Path(options.input)) if options.input is not None else list(options.text or ())
    pairs = [(line, None) for line in lines]
    texts = encode_texts(tokenizer, pairs, options.max_seq_length or config.max_position_embeddings, config)
    output = Path(options.output)
    with whole_file(output) as partial:
        vectors = np.lib.format.open_memmap(partial, "w+", np.float32, (len(texts), config.hidden_size))
        batches = list(texts.in_order(options.batch_size))
        for rows in track(batches, "embedding", console=Console(stderr=True)):
            vectors[rows] = vectors_of(model, texts.batch(rows, device), options.pooling).cpu().numpy()
        vectors.flush()
    print(f"{output}: {len(texts):,} {options.pooling} vectors of {config.hidden_size}")


@torch.no_grad()
def fill_masks(
    model: AlbertForPreTraining, tokenizer: Tokenizer, text: str, top: int = 5
) -> list[list[tuple[str, float]]]:
    """The `top` most likely tokens and their probabilities for each [MASK] in `text`, in order."""
    ids, gaps = _ids_with_masks(tokenizer, text)
    limit = model.config.max_position_embeddings
    if len(ids) > limit:
        raise UserError(f"text of {len(ids)} tokens exceeds the model's max_position_embeddings={limit}; shorten it")
    device = next(model.parameters()).device
    positions = torch.tensor([gaps], device=device)
    logits = model(torch.tensor([ids], device=device), masked_lm_positions=positions).prediction_logits[0].float()
    logits = logits[:, : tokenizer.vocab_size]  # ids beyond it are padding of the vocabulary
    best = logits.softmax(-1).topk(min(top, logits.shape[-1]))
    return [
        [(tokenizer.tokens[i], p) for i, p in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


@torch.no_grad()
def vectors_of(model: AlbertModel, batch: Packed, pooling: str = "mean") -> Tensor:
    """float32 [B, H]: the mean over each sequence's tokens, [CLS] and [SEP] included, or the pooler's output."""
    if pooling == "pooled":
        return model.albert.pool(model.albert(batch, batch.first_tokens())).float()
    return mean_vectors(model.albert(batch).float(), batch.cu_seqlens)


def _ids_with_masks(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Token ids of [CLS] text [SEP] with "[MASK]" as the mask token, and the positions of the masks."""
    mask = tokenizer.tokens[tokenizer.mask_id]
    pieces = text.replace("[MASK]", mask).split(mask)
    if len(pieces) < 2:
        raise UserError(f"text {text[:60]!r} has no [MASK]; write it where a token should be predicted")
    ids, gaps = [tokenizer.cls_id], []
    for i, piece in enumerate(pieces):
        if i:
            gaps.append(len(ids))
            ids.append(tokenizer.mask_id)
        ids += tokenizer.encode(piece)
    return [*ids, tokenizer.sep_id], gaps


def _shown(probability: float) -> str:
    """Three decimals, or scientific notation for probabilities that would round to 0.000."""
    return f"{probability:.3f}" if probability >= 0.001 else f"{probability:.0e}"


def _lines(file: Path) -> list[str]:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"input {file}: {error.strerror}; give a text file with one text per line") from None
    except UnicodeDecodeError as error:
        raise UserError(f"input {file}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    if not content:
        raise UserError(f"input {file} is empty; give a text file with one text per line")
    return [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")]
