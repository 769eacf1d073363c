"""`albert-fast convert`: checkpoints of TensorFlow, HuggingFace and albert_pytorch to our format or HuggingFace's.

Every variable of the source is used, skipped with a reason or rejected by name, and every parameter of the target is
filled: nothing is dropped or invented silently.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from albert_fast.config import AlbertConfig, ShareType
from albert_fast.convert.compare import check_recorded
from albert_fast.convert.files import find_checkpoint, find_config, folders_of
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
    """Source, output and verification."""

    checkpoint: str = option(help="TensorFlow prefix, .safetensors or .bin file, or a folder of one", positional=True)
    output: str = option(help="folder to write; must be new or empty")
    config: str | None = option(None, "JSON config of the checkpoint (the one in its folder)")
    to: Literal["albert_fast", "huggingface"] = option("albert_fast", "format to write: albert_fast or huggingface")
    share_type: ShareType | None = option(
        None, "unshare parameters between layers: ffn, attention or None (as in the checkpoint)"
    )
    vocab: str | None = option(
        None, "vocab.txt, tokenizer.json or SentencePiece .model to include (the one in the checkpoint's folder)"
    )
    check: str | None = option(None, "recorded outputs (.npz) of the original to compare; exit code 2 if different")
    tolerance: float | None = option(None, "maximum absolute difference for --check (1e-5; 5e-5 with preln)")
    new_heads: bool = option(False, "initialise heads missing from the source at random instead of failing")
    backbone: bool = option(False, "drop all heads of the source; initialise ours at random")
    use_averages: bool = option(False, "use the moving averages of the weights in the checkpoint")


def convert(options: ConvertOptions) -> None:
    """Import weights of albert_zh, Google's ALBERT, albert_pytorch or HuggingFace, or export ours to HuggingFace.

    The kind of source is detected. If anything is missing, unknown, damaged or different, an error names it and nothing
    is written.
    """
    output = Path(options.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output {output} exists and is not an empty folder; give a new or empty one")
    source = read_checkpoint(checkpoint_folder(options.checkpoint), options.config, options.use_averages)
    take_backbone(source) if options.backbone else settle_head(source)
    share_type = options.share_type or source.wanted_share_type
    tokenizer = _tokenizer(options.vocab, source.path, source.config)
    if tokenizer is not None and tokenizer.vocab_size < source.config.vocab_size:
        source.config = source.config.replace(real_vocab_size=tokenizer.vocab_size)
        padding = source.config.vocab_size - tokenizer.vocab_size
        source.remarks.append(
            f"vocab_size is padded: {tokenizer.vocab_size:,} tokens in the vocabulary, {padding:,} unused"
        )
    target = source.config.replace(share_type=share_type)
    print(f"{source.path}: {source.project}, layout {source.config.layout}, share_type={source.config.share_type}")
    for remark in source.remarks:
        print(f"  {remark}")
    model = source.model_class(target).eval()
    weights = fill(source, options.new_heads or options.backbone)
    model.load_weights(unshare(weights, source.config, target, set_index=source.set_index), str(source.path))
    if options.check is not None:
        if not isinstance(model, AlbertForPreTraining):
            raise UserError(f"check={options.check}: only pretraining models can be checked, not classifiers; omit it")
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
    """Read the checkpoint at `path`: a TensorFlow prefix, a weights file, or a folder with one of these."""
    file = find_checkpoint(path)
    stated = AlbertConfig.from_pretrained(find_config(config, file))
    read = read_tensorflow if file.suffix == ".index" else read_pytorch
    source = read(file, stated, use_averages)
    refuse_non_finite(source.weights, file)
    for name, tensor in source.weights.items():
        if not tensor.is_floating_point():
            raise UserError(f"{file}: {name} is {tensor.dtype}, probably quantized; give unquantized weights")
    settle_vocabulary(source)
    return source


def _tokenizer(given: str | None, file: Path, config: AlbertConfig) -> Tokenizer | None:
    """The given vocabulary or the one in the folder of `file`; None, with a note, if there is none."""
    present = [found for folder in folders_of(file) if (found := find_vocabulary(folder)) is not None]
    if given is None and not present:
        note(f"no vocabulary in {file.parent}: the output cannot tokenize text; give a vocabulary with --vocab")
        return None
    vocabulary = given or present[0]
    tokenizer = load_tokenizer(vocabulary)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"vocab {vocabulary} has {tokenizer.vocab_size} tokens, more than the checkpoint's "
            f"vocab_size={config.vocab_size}; give the matching vocabulary with --vocab"
        )
    return tokenizer
