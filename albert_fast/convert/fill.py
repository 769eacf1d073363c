"""Maps a checkpoint's weights to our state dict; every missing, unused or misshaped weight is reported."""

import torch
from torch import Tensor

from albert_fast.convert.source import Source
from albert_fast.options import UserError, note

_HEADS = ("albert.pooler.", "mlm_head.", "sop_head.")
_BACKBONE = ("albert.", "bert.", "bert/")
# Config fields that describe the head of a checkpoint.
_HEAD_KEYS = ("architectures", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task")
_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
BACKBONE = "use --backbone to convert the model without its heads"


def take_backbone(source: Source) -> None:
    """Drop every head of the source, including the pretraining heads, and add a remark listing them."""
    heads = [name for name in source.weights if not name.startswith(_BACKBONE)]
    source.weights = {name: tensor for name, tensor in source.weights.items() if name not in heads}
    extra = {name: value for name, value in source.config.extra.items() if name not in _HEAD_KEYS}
    source.config = source.config.replace(extra=extra)
    source.remarks.append(f"dropped the heads: {', '.join(heads) or 'none found'}")


def settle_head(source: Source) -> None:
    """Reject unsupported heads, and number the classes of a classifier whose config does not name them."""
    extra, head = source.config.extra, source.weights.get("classifier.weight")
    architecture = str(next(iter(extra.get("architectures") or []), ""))
    others = [name for name in source.weights if not name.startswith(_BACKBONE)]
    if architecture.endswith(_OTHER_HEADS) and others:
        raise UserError(f"{source.path} is an {architecture}, whose head ({others[0]}) is not supported; {BACKBONE}")
    if head is None:
        return
    pooler = source.names.get("albert.pooler.weight", ("albert.pooler.weight",))
    if not source.weights.keys() >= {*pooler}:
        raise UserError(f"{source.path} has a classifier ({head.shape[0]} classes) but no pooler; {BACKBONE}")
    kind = extra.get("problem_type")
    if head.shape[0] < 2 or kind in ("regression", "multi_label_classification"):
        what = "a regression" if head.shape[0] < 2 else f"of problem_type {kind}"
        raise UserError(f"{source.path}: its head is {what}, only single-label classifiers are supported; {BACKBONE}")
    if not extra.get("id2label"):
        names = {str(i): str(i) for i in range(head.shape[0])}
        source.config = source.config.replace(extra={**extra, "id2label": names})
        source.remarks.append(f"the config names no classes; using {', '.join(names)}")


def settle_vocabulary(source: Source) -> None:
    """Take vocab_size from the weights if they are padded to a multiple of 8, as by NVIDIA's scripts."""
    name = source.names.get("albert.embeddings.word_embeddings.weight", ("albert.embeddings.word_embeddings.weight",))
    word, stated = source.weights.get(name[0]), source.config.vocab_size
    if word is not None and word.shape[0] % 8 == 0 and 0 < word.shape[0] - stated < 128:
        source.config = source.config.replace(vocab_size=word.shape[0], real_vocab_size=stated)
        source.remarks.append(f"the weights are padded from the config's vocab_size={stated} to {word.shape[0]}")


def fill(source: Source, new_heads: bool = False) -> dict[str, Tensor]:
    """Our state dict (fp32) for the source's own config; a single UserError lists all mismatched names and shapes."""
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
            shapes = f"{list(state[ours].shape)} instead of {list(parameter.shape)}"
            misshaped.append(f"{' + '.join(theirs)} {shapes}")
    if new_heads:
        fresh = [ours for ours in unfilled if ours.startswith(_HEADS)]
        unfilled = [ours for ours in unfilled if ours not in fresh]
        with torch.random.fork_rng():
            torch.manual_seed(42)
            initial = source.model_class(source.config).state_dict()
        state |= {ours: initial[ours] for ours in fresh}
        note(f"{source.path} lacks {', '.join(fresh) or 'no head'}{'; initialised at random' if fresh else ''}")
    wanted = [name for ours in unfilled for name in source.names.get(ours, (ours,)) if name not in source.weights]
    unused = [name for name in source.weights if name not in used]
    only_heads = all(ours.startswith(_HEADS) for ours in unfilled) and not any(n.startswith(_BACKBONE) for n in unused)
    remedy = BACKBONE if unused else "use --new_heads to initialise them at random"
    problems = {"missing": wanted, "unused": unused, "wrong shapes": misshaped}
    if any(problems.values()):
        text = "; ".join(f"{problem} {', '.join(names)}" for problem, names in problems.items() if names)
        text += f"; {remedy}" if only_heads and not misshaped else ""
        raise UserError(f"{source.path} does not match its config as {source.project}: {text}")
    return state
