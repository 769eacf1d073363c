"""The folder of a pretraining run: its options, the checks on resuming it, and its model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from albert_fast import checkpoint
from albert_fast.config import AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.data.batches import PretrainingLoader
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.files import file_crc, held_files, locked, remove_partials, write_json, writing
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, UserError, changed_setting, check_unchanged, note, option
from albert_fast.pretrained import WEIGHTS, checkpoint_folder, read_weights
from albert_fast.sharing import unshare

OPTIONS = "options.json"
# Options that a resumed run cannot change; data, config and initial weights are compared by content.
FIXED = (
    "seed", "tokens_per_batch", "max_seq_length", "max_ngram", "masked_lm_prob", "max_predictions", "short_seq_prob",
    "sentence_order", "ln_type", "layout", "hidden_act", "hidden_dropout_prob", "final_layer_norm", "optimizer",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Input, output, checkpoints and evaluation of the run."""

    data: str = option(help="folder written by `albert-fast prepare`", metavar="DIR")
    output: str = option(help="folder of the run: checkpoints, metrics.jsonl, TensorBoard logs", metavar="RUN")
    resume: bool = option(
        False, "resume from RUN's newest intact checkpoint; flags default to the original run's; data may have moved"
    )
    init_from: str | None = option(None, "checkpoint folder to take the initial weights and config from", metavar="DIR")
    tune: Literal["auto", "off", "again"] = option(
        "auto", "on CUDA, use the fastest correct kernels; auto caches the choice, again repeats it, off uses defaults"
    )
    tune_seconds: float = option(45.0, "time limit for tuning in seconds; 0 uses defaults", at_least=0)
    save_steps: int = option(1000, "steps between checkpoints; the last step is always saved", at_least=1)
    keep_checkpoints: int = option(3, "number of newest checkpoints to keep", at_least=1)
    logging_steps: int = option(10, "steps between log lines, where several ranks react to signals", at_least=1)
    max_skipped_updates: int = option(
        25, "consecutive updates skipped for non-finite gradients that end the run with exit code 3", at_least=1
    )
    eval_data: str | None = option(None, "prepared folder of held-out data", metavar="DIR")
    eval_steps: int = option(1000, "steps between evaluations on --eval_data; the last step always has one", at_least=1)
    eval_batches: int = option(
        20, "micro-batches per evaluation, at most one epoch of --eval_data; masks are fixed", at_least=1
    )


def saved_options(given: dict[str, Any]) -> dict[str, Any]:
    """The original options of the run that --resume continues: defaults for the flags not given."""
    file = Path(given.get("output", "")) / OPTIONS
    return _read_options(file) if given.get("resume") and file.exists() else {}


def _read_options(file: Path) -> dict[str, Any]:
    try:
        options = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); start in another folder, with --init_from") from None
    if not isinstance(options, dict):
        raise UserError(f"{file} is damaged (not a JSON object); start in another folder, with --init_from")
    kinds = {"data": str, "config": str, "init_from": str | None, "max_steps": int}
    if wrong := [name for name, kind in kinds.items() if not isinstance(options.get(name, ...), kind)]:
        raise UserError(
            f"{file} is damaged ({wrong[0]} is missing or of the wrong type); start in another folder, with --init_from"
        )
    return options


def check_resume(path: Path, mark: str, resume: bool) -> None:
    """UserError if a run to resume lacks the file `mark`, which runs write first, or a new run's folder has files."""
    if resume and not (path / mark).is_file():
        raise UserError(f"output={path} holds no run to resume; remove --resume to start one")
    if not resume and held_files(path):
        raise UserError(f"output={path} holds files already; give --resume to continue its run, or another folder")


@contextmanager
def own_folder(path: Path) -> Iterator[None]:
    """Create and lock a run's folder, and remove partial files of killed processes."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with locked(path, "checkpoints"):
        remove_partials(path)
        yield


class RunFolder:
    """RUN/: the options saved in it and the checkpoint to resume from.

    Attributes: path; checkpoint, the newest intact one or None; step and cursor, its step and data position (0 and None
    at the start); before, the saved options (None for a new run).

    Raises:
        UserError: the folder holds a run and --resume is not given, or the reverse; output lies inside the data; the
            data are missing; a flag differs that a run cannot change.
    """

    def __init__(self, run: RunOptions, options: dict[str, Any]):
        self.path, self.options = Path(run.output), options
        file = self.path / OPTIONS
        for folder in filter(None, (run.data, run.eval_data)):
            if not run.resume and self.path.resolve().is_relative_to(Path(folder).resolve()):
                raise UserError(
                    f"output={run.output} is inside the prepared folder {folder}, which may hold no other files; "
                    "use an --output outside it"
                )
        check_resume(self.path, OPTIONS, run.resume)
        self.before = _read_options(file) if run.resume else None
        self.checkpoint = checkpoint.find(self.path) if run.resume else None
        self.step = self.checkpoint.step if self.checkpoint else 0
        self.cursor = self.checkpoint.data["cursor"] if self.checkpoint else None
        if self.before is None:
            return
        check_unchanged({name: options[name] for name in FIXED}, self.before)
        if not Path(run.data).exists():
            raise UserError(f"data={run.data}, this run's prepared folder, is gone; give its new location with --data")
        if self.checkpoint is None:
            note(f"{self.path} holds no intact checkpoint; starting from step 0")

    def check(self, config: AlbertConfig, model: ModelOptions, run: RunOptions, loader: PretrainingLoader) -> None:
        """UserError if the content of a resumed run's data, config or initial weights has changed; paths may differ."""
        if self.before is None:
            return
        stream = self.before.get("stream", loader.cursor()["stream"])
        if stream != loader.cursor()["stream"]:
            raise changed_setting("data", run.data, self.before["data"], "other shards")
        if run.init_from != self.before["init_from"]:
            known = self.before.get("init_from_crc32c")
            if run.init_from is None or file_crc(checkpoint_folder(run.init_from) / WEIGHTS) != known:
                raise changed_setting("init_from", run.init_from, self.before["init_from"], "other weights")
        if model.config != self.before["config"] and not run.init_from:
            given = model.build(config.vocab_size)
            if given.replace(share_type=config.share_type, extra=config.extra) != config:
                raise changed_setting("config", model.config, self.before["config"], "another model")

    @contextmanager
    def opened(self, run: RunOptions, loader: PretrainingLoader, implementations: dict[str, str]) -> Iterator[None]:
        """Lock the folder and write the options before anything else.

        A refused run therefore leaves no trace, and one killed at its start can be resumed or started again.
        """
        with own_folder(self.path):
            saved = {name: value for name, value in self.options.items() if name not in ("resume", "output")}
            saved |= {"implementations": implementations, "stream": loader.cursor()["stream"]}
            saved["init_from_crc32c"] = (self.before or {}).get("init_from_crc32c")
            if run.init_from and not self.before:
                saved["init_from_crc32c"] = file_crc(checkpoint_folder(run.init_from) / WEIGHTS)
            write_json(self.path / OPTIONS, saved)
            yield


def model_config(model: ModelOptions, folder: RunFolder, run: RunOptions, loader: PretrainingLoader) -> AlbertConfig:
    """The model's config: the checkpoint's if there is one (sharing may be loosened), otherwise from the options."""
    vocab_size = loader.corpus.vocab_size
    if folder.checkpoint:
        saved = AlbertConfig.from_pretrained(folder.checkpoint.directory)
        return saved.replace(share_type=model.share_type or saved.share_type)
    if run.init_from:
        source = checkpoint_folder(run.init_from)
        if model.config not in (ModelOptions.config, run.init_from, str(source)):
            note(f"config={model.config} is ignored: the config of {run.init_from} comes with its weights")
        model = replace(model, config=str(source))
        check_vocabulary(load_tokenizer(source).fingerprint, run.init_from, loader, run)
    config = model.build(vocab_size)
    # A vocabulary padded to a multiple of 8 or 64; only with --init_from is it known that the real tokens agree.
    padding = config.vocab_size - vocab_size
    if padding > 0 and (run.init_from or (config.vocab_size % 8 == 0 and padding < 128)):
        note(f"vocab_size={config.vocab_size} of {model.config}: {vocab_size} tokens of {run.data}, {padding} padding")
        return config.replace(real_vocab_size=vocab_size)
    if padding:
        raise UserError(
            f"vocab_size={config.vocab_size} of {model.config} does not match the {vocab_size} tokens that {run.data} "
            "was prepared with; prepare with that model's vocabulary, or use a config of this size"
        )
    return config


def check_vocabulary(fingerprint: bytes, folder: str, loader: PretrainingLoader, run: RunOptions) -> None:
    """UserError if `folder`'s vocabulary is not that of the training data."""
    if fingerprint != loader.corpus.vocabulary_fingerprint:
        raise UserError(
            f"the vocabulary of {folder} is not the one that {run.data} was prepared with, so ids would stand for "
            f"other tokens; prepare with the vocabulary of {folder}"
        )


def check_trainable(config: AlbertConfig, data: DataConfig) -> None:
    """UserError if a config cannot be pretrained on such data."""
    config.check_length(data.max_seq_length)
    if config.attention_probs_dropout_prob > 0:
        raise UserError(
            f"attention_probs_dropout_prob={config.attention_probs_dropout_prob} is not supported: packed "
            "attention has no dropout; give --attention_probs_dropout_prob 0 and, for dropout, --hidden_dropout_prob"
        )
    if config.type_vocab_size < 2 and data.sentence_order:
        raise UserError(f"type_vocab_size={config.type_vocab_size} has no second segment; use 2 or --no-sentence_order")


def build_model(config: AlbertConfig, run: RunOptions, train: TrainConfig, folder: RunFolder) -> AlbertForPreTraining:
    """The model to train; a new run takes its weights from --init_from, if given."""
    model = AlbertForPreTraining(config, ops=train.ops)
    if run.init_from and not folder.checkpoint:
        source = checkpoint_folder(run.init_from)
        weights = unshare(read_weights(source), AlbertConfig.from_pretrained(source), config)
        model.load_weights(weights, str(source))
    return model
