"""Weights in from TensorFlow, HuggingFace and albert_pytorch, out to a folder of ours or of HuggingFace's.

Every variable of a source is used, skipped for a stated reason or refused by name, and every parameter of ours is
filled: nothing is left out or made up in silence.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from albert_fast.config import AlbertConfig, ShareType
from albert_fast.convert.compare import check_recorded
from albert_fast.convert.files import beside, find_checkpoint, find_config
from albert_fast.convert.fill import fill, settle_head, settle_vocabulary, take_backbone
from albert_fast.convert.huggingface import export_huggingface
from albert_fast.convert.pytorch import read_pytorch
from albert_fast.convert.source import Source
from albert_fast.convert.tensorflow import read_tensorflow
from albert_fast.data.load_tokenizer import find_vocabulary, load_tokenizer
from albert_fast.data.tokenizer import Tokenizer
from albert_fast.files import whole_folder, writing
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, UserError, note, option
from albert_fast.pretrained import checkpoint_folder, refuse_non_finite
from albert_fast.sharing import unshare


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """What to read, what to write, and what to compare with."""

    checkpoint: str = option(help="TensorFlow prefix, .safetensors or .bin file, or the folder of one", positional=True)
    output: str = option(help="folder to write; new or empty")
    config: str | None = option(None, "the checkpoint's JSON config (the one beside it)")
    to: Literal["albert_fast", "huggingface"] = option("albert_fast", "format to write: albert_fast or huggingface")
    share_type: ShareType | None = option(
        None, "give layers their own copies: ffn, attention or None (as in the checkpoint)"
    )
    vocab: str | None = option(
        None, "vocab.txt, tokenizer.json or SentencePiece .model to lay beside the weights (the one beside the source)"
    )
    check: str | None = option(None, "recorded outputs (.npz) of the original to compare with; exit code 2 if unequal")
    tolerance: float | None = option(None, "largest absolute difference that --check accepts (1e-5; 5e-5 with preln)")
    new_heads: bool = option(False, "start heads that the source lacks from random weights instead of refusing")
    backbone: bool = option(False, "leave the source's heads out, of whatever kind; ours start from random weights")
    use_averages: bool = option(False, "take the moving averages of the weights that the checkpoint holds")


def convert(options: ConvertOptions) -> None:
    """Bring in the weights of albert_zh, Google's ALBERT, albert_pytorch or HuggingFace, or write ours for HuggingFace.

    The source is recognised. What is missing, unknown, damaged or unequal is named, and then nothing is written.
    """
    output = Path(options.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output {output} exists and is not an empty folder; give a new one")
    source = read_checkpoint(checkpoint_folder(options.checkpoint), options.config, options.use_averages)
    take_backbone(source) if options.backbone else settle_head(source)
    share_type = options.share_type or source.wanted_share_type
    tokenizer = _tokenizer(options.vocab, source.path, source.config)
    if tokenizer is not None and tokenizer.vocab_size < source.config.vocab_size:
        source.config = source.config.replace(real_vocab_size=tokenizer.vocab_size)
        padding = source.config.vocab_size - tokenizer.vocab_size
        source.remarks.append(f"vocab_size pads the {tokenizer.vocab_size:,} tokens of the vocabulary by {padding:,}")
    target = source.config.replace(share_type=share_type)
    print(f"{source.path}: {source.project}, layout {source.config.layout}, share_type={source.config.share_type}")
    for remark in source.remarks:
        print(f"  {remark}")
    model = source.model_class(target).eval()
    weights = fill(source, options.new_heads or options.backbone)
    model.load_weights(unshare(weights, source.config, target, set_index=source.set_index), str(source.path))
    if options.check is not None:
        if not isinstance(model, AlbertForPreTraining):
            raise UserError(f"check={options.check}: outputs are recorded of pretraining models; this is a classifier")
        check_recorded(model, Path(options.check), options.tolerance)

    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output) as partial:
        if tokenizer is not None:
            tokenizer.save(partial)
        if options.to == "huggingface":
            export_huggingface(model, partial, tokenizer)
        else:
            model.save_pretrained(partial)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{output}: {count:,} parameters, {target.ln_type}, share_type={share_type}, for {options.to}")


def read_checkpoint(path: Path, config: str | None, use_averages: bool = False) -> Source:
    """The checkpoint at `path`: a TensorFlow prefix, a weights file, or the folder of either."""
    file = find_checkpoint(path)
    asked = AlbertConfig.from_pretrained(find_config(config, file))
    read = read_tensorflow if file.suffix == ".index" else read_pytorch
    source = read(file, asked, use_averages)
    refuse_non_finite(source.weights, file)
    if whole := [name for name, tensor in source.weights.items() if not tensor.is_floating_point()]:
        raise UserError(
            f"{file}: {whole[0]} is {source.weights[whole[0]].dtype}, as of quantized weights; give those before"
        )
    settle_vocabulary(source)
    return source


def _tokenizer(given: str | None, file: Path, config: AlbertConfig) -> Tokenizer | None:
    """The given vocabulary, or the one beside the checkpoint `file`; None, with a note, where there is none."""
    there = [found for folder in beside(file) if (found := find_vocabulary(folder)) is not None]
    if given is None and not there:
        note(f"no vocabulary in {file.parent}: the output reads ids but no text; give one with --vocab")
        return None
    tokenizer = load_tokenizer(given or there[0])
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"vocab {given or there[0]} has {tokenizer.vocab_size} tokens, more than the checkpoint's "
            f"vocab_size={config.vocab_size}; give its own with --vocab"
        )
    return tokenizer
