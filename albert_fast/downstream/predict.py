"""Looking at what was trained: the words that a model puts into gaps, and its vectors for texts."""

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
    """Which model fills the gaps of which texts."""

    model: str = option(help="folder of a pretrained model with its vocabulary, or of a pretraining run", metavar="DIR")
    text: tuple[str, ...] | None = option(None, "texts with [MASK] for words to fill in (lines of standard input)")
    top: int = option(5, "likeliest words to show for each gap", at_least=1)
    json: bool = option(False, "print one JSON document")


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(Options):
    """Which model makes vectors of which texts; give --input or --text."""

    model: str = option(help="folder of a model with its vocabulary, or of a pretraining run", metavar="DIR")
    input: str | None = option(None, "UTF-8 text file, one text a line; an empty line is an empty text", metavar="FILE")
    text: tuple[str, ...] | None = option(None, "texts, in place of --input")
    output: str = option(help=".npy file to write: float32 [texts, hidden_size]", metavar="FILE")
    pooling: Literal["mean", "pooled"] = option("mean", "mean of all tokens' vectors, or the pooler's vector of [CLS]")
    max_seq_length: int | None = option(
        None, "tokens of the longest text; longer ones are cut (the model's positions)", at_least=3
    )
    batch_size: int = option(64, "texts computed at once", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.input is None) == (self.text is None):
            raise UserError("give the texts either with --input FILE, one a line, or with --text, and not with both")


def fill_mask(options: FillMaskOptions, where: DeviceOptions) -> None:
    """Show the likeliest words for every [MASK] in the texts."""
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
        console.print(text, markup=False, highlight=False, soft_wrap=True)  # a title would wrap to the table's width
        table = Table(*(f"[MASK] {i}" for i in range(1, len(gaps) + 1)))
        for row in zip(*gaps, strict=True):
            table.add_row(*(f"{escape(token)}  {_shown(probability)}" for token, probability in row))
        console.print(table)


def embed(options: EmbedOptions, where: DeviceOptions) -> None:
    """Write one vector for each text."""
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
    """The `top` likeliest tokens and their probabilities for each [MASK] of `text`, in order."""
    ids, gaps = _ids_with_masks(tokenizer, text)
    limit = model.config.max_position_embeddings
    if len(ids) > limit:
        raise UserError(f"text of {len(ids)} tokens is over the model's max_position_embeddings={limit}; shorten it")
    device = next(model.parameters()).device
    positions = torch.tensor([gaps], device=device)
    logits = model(torch.tensor([ids], device=device), masked_lm_positions=positions).prediction_logits[0].float()
    logits = logits[:, : tokenizer.vocab_size]  # ids past it pad the vocabulary and have no token
    best = logits.softmax(-1).topk(min(top, logits.shape[-1]))
    return [
        [(tokenizer.tokens[i], p) for i, p in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


@torch.no_grad()
def vectors_of(model: AlbertModel, batch: Packed, pooling: str = "mean") -> Tensor:
    """float32 [B, H] of a packed batch: the mean over every token, [CLS] and [SEP] included, or the pooler's."""
    if pooling == "pooled":
        return model.albert.pool(model.albert(batch, batch.first_tokens())).float()
    return mean_vectors(model.albert(batch).float(), batch.cu_seqlens)


def _ids_with_masks(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """[CLS] text [SEP] as ids, "[MASK]" in it as the mask token, and where the masks stand."""
    mask = tokenizer.tokens[tokenizer.mask_id]
    pieces = text.replace("[MASK]", mask).split(mask)
    if len(pieces) < 2:
        raise UserError(f"text {text[:60]!r} has no [MASK]; write it where a word is to be filled in")
    ids, gaps = [tokenizer.cls_id], []
    for i, piece in enumerate(pieces):
        if i:
            gaps.append(len(ids))
            ids.append(tokenizer.mask_id)
        ids += tokenizer.encode(piece)
    return [*ids, tokenizer.sep_id], gaps


def _shown(probability: float) -> str:
    """Three digits after the point, and small ones not as 0.000."""
    return f"{probability:.3f}" if probability >= 0.001 else f"{probability:.0e}"


def _lines(file: Path) -> list[str]:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"input {file}: {error.strerror}; give a text file, one text a line") from None
    except UnicodeDecodeError as error:
        raise UserError(f"input {file}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    if not content:
        raise UserError(f"input {file} is empty; give a text file, one text a line")
    return [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")]
