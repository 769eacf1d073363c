"""A run's folder and what it is made of: the options it was given, what it may be resumed with, and its model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from albert_fast import checkpoint
from albert_fast.config import PRESETS, AlbertConfig, DataConfig, ModelOptions, TrainConfig
from albert_fast.data.batches import PretrainingLoader
from albert_fast.data.load_tokenizer import load_tokenizer
from albert_fast.files import file_crc, held_files, locked, remove_partials, write_json, writing
from albert_fast.model import AlbertForPreTraining
from albert_fast.options import Options, UserError, another_run, check_unchanged, note, option
from albert_fast.pretrained import WEIGHTS, checkpoint_folder, read_weights
from albert_fast.sharing import unshare

OPTIONS = "options.json"
# What makes a run the run it is, beside its data, config and first weights, which are compared by content.
FIXED = (
    "seed", "tokens_per_batch", "max_seq_length", "max_ngram", "masked_lm_prob", "max_predictions", "short_seq_prob",
    "sentence_order", "ln_type", "layout", "hidden_act", "hidden_dropout_prob", "final_layer_norm", "optimizer",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Where the text comes from, where the run goes, and what it leaves on the way."""

    data: str = option(help="folder that `albert-fast prepare` made", metavar="DIR")
    output: str = option(help="folder of the run: checkpoints, metrics.jsonl, TensorBoard", metavar="RUN")
    resume: bool = option(
        False, "go on from RUN's newest whole checkpoint; flags not given are those of the first run; data may move"
    )
    init_from: str | None = option(
        None, "folder of a checkpoint whose weights (and config) to start from", metavar="DIR"
    )
    tune: Literal["auto", "off", "again"] = option(
        "auto", "on CUDA, check each kernel's implementations and take the fastest; auto remembers, off keeps defaults"
    )
    tune_seconds: float = option(45.0, "seconds that choosing implementations may take; 0 keeps defaults", at_least=0)
    save_steps: int = option(1000, "steps between checkpoints; the last step is always saved", at_least=1)
    keep_checkpoints: int = option(3, "newest checkpoints to keep", at_least=1)
    logging_steps: int = option(10, "steps between log lines; several ranks answer a signal at one of them", at_least=1)
    max_skipped_updates: int = option(
        25, "updates skipped in a row, their gradients not finite, that end the run with exit code 3", at_least=1
    )
    eval_data: str | None = option(None, "prepared folder held out of training", metavar="DIR")
    eval_steps: int = option(
        1000, "steps between evaluations on --eval_data; the last step is always evaluated", at_least=1
    )
    eval_batches: int = option(
        20, "micro-batches of --eval_data in an evaluation, at most one epoch; masks are fixed", at_least=1
    )


def saved_options(given: dict[str, Any]) -> dict[str, Any]:
    """What the run that --resume goes on with was given, for the flags that are not given again."""
    file = Path(given.get("output", "")) / OPTIONS
    if not given.get("resume") or not file.exists():
        return {}
    return _read_options(file)


def _read_options(file: Path) -> dict[str, Any]:
    try:
        options = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); start in another folder, with --init_from") from None
    if not isinstance(options, dict):
        raise UserError(f"{file} is damaged (it holds no object); start in another folder, with --init_from")
    kinds = {"data": str, "config": str, "init_from": str | None, "max_steps": int}
    if wrong := [name for name, kind in kinds.items() if not isinstance(options.get(name, ...), kind)]:
        raise UserError(
            f"{file} is damaged ({wrong[0]} is not in it, or of another type); start in another folder, with "
            "--init_from"
        )
    return options


def check_resume(path: Path, mark: str, resume: bool) -> None:
    """UserError where a run that goes on finds no file `mark`, which runs begin with, or a new one finds files."""
    if resume and not (path / mark).is_file():
        raise UserError(f"output={path} holds no run to resume; leave --resume out to start one")
    if not resume and held_files(path):
        raise UserError(f"output={path} holds files already; give --resume to go on, or another folder")


@contextmanager
def own_folder(path: Path) -> Iterator[None]:
    """Make a run's folder, keep other processes out of it, and clear away what killed ones left half written."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with locked(path, "checkpoints"):
        remove_partials(path)
        yield


class RunFolder:
    """RUN/: what it was given before, and the checkpoint to go on from.

    Attributes: path; found, the newest whole checkpoint or None; step and cursor, where the run and its data stood
    there (0 and None: at the start); before, the options of the run so far (None: a new run).

    Raises:
        UserError: the folder holds a run and --resume is not given, or holds none and it is; the data are gone; a
            flag would make it another run.
    """

    def __init__(self, run: RunOptions, options: dict[str, Any]):
        self.path, self.options = Path(run.output), options
        file = self.path / OPTIONS
        check_resume(self.path, OPTIONS, run.resume)
        self.before = _read_options(file) if run.resume else None
        self.found = checkpoint.find(self.path) if run.resume else None
        self.step = self.found.step if self.found else 0
        self.cursor = self.found.data["cursor"] if self.found else None
        if self.before is None:
            return
        check_unchanged({name: options[name] for name in FIXED}, self.before)
        if not Path(run.data).exists():
            raise UserError(f"data={run.data}, where this run's data lay, is gone; give --data at its new place")
        if self.found is None:
            note(f"{self.path} holds no whole checkpoint; starting from step 0")

    def check(self, config: AlbertConfig, model: ModelOptions, run: RunOptions, loader: PretrainingLoader) -> None:
        """UserError where data, config or first weights of a resumed run are not those of before, wherever they lie."""
        if self.before is None:
            return
        stream = self.before.get("stream", loader.cursor()["stream"])
        if stream != loader.cursor()["stream"]:
            raise another_run("data", run.data, self.before["data"], "other shards")
        if run.init_from != self.before["init_from"]:
            known = self.before.get("init_from_crc32c")
            if run.init_from is None or file_crc(checkpoint_folder(run.init_from) / WEIGHTS) != known:
                raise another_run("init_from", run.init_from, self.before["init_from"], "other weights")
        if model.config != self.before["config"] and not run.init_from:
            asked = model.build(**({"vocab_size": config.vocab_size} if model.config in PRESETS else {}))
            if asked.replace(share_type=config.share_type, extra=config.extra) != config:
                raise another_run("config", model.config, self.before["config"], "another model")

    def note_schedule(self, train: TrainConfig) -> None:
        """Say where a resumed run's learning rate jumps, since --max_steps is another."""
        if self.before and self.before["max_steps"] != train.max_steps:
            note(
                f"max_steps={train.max_steps:,} in place of {self.before['max_steps']:,}: the rate follows the "
                f"new schedule from step {self.step:,} on (warm-up of {train.warmup_steps:,} steps, 0 at the new end)"
            )

    @contextmanager
    def opened(self, run: RunOptions, loader: PretrainingLoader, implementations: dict[str, str]) -> Iterator[None]:
        """Keep other processes out of the folder, and write what the run was given before anything else is written.

        So a refused run leaves no trace, and one that was killed at its start can be resumed or started again.
        """
        with own_folder(self.path):
            self._write_options(run, loader, implementations)
            yield

    def _write_options(self, run: RunOptions, loader: PretrainingLoader, implementations: dict[str, str]) -> None:
        saved = {name: value for name, value in self.options.items() if name not in ("resume", "output")}
        saved["implementations"], saved["stream"] = implementations, loader.cursor()["stream"]
        known = (self.before or {}).get("init_from_crc32c")
        if run.init_from and not self.before:
            known = file_crc(checkpoint_folder(run.init_from) / WEIGHTS)
        saved["init_from_crc32c"] = known
        write_json(self.path / OPTIONS, saved)


def model_config(model: ModelOptions, folder: RunFolder, run: RunOptions, loader: PretrainingLoader) -> AlbertConfig:
    """The model's config: the checkpoint's (sharing perhaps loosened) where there is one, else as the options say."""
    vocab_size = loader.corpus.vocab_size
    if folder.found:
        saved = AlbertConfig.from_pretrained(folder.found.directory)
        return saved.replace(share_type=model.share_type or saved.share_type)
    if run.init_from:
        source = checkpoint_folder(run.init_from)
        if model.config not in (ModelOptions.config, run.init_from, str(source)):
            note(f"config={model.config} is not used: the config of {run.init_from} comes with its weights")
        model = replace(model, config=str(source))
        check_vocabulary(load_tokenizer(source).fingerprint, run.init_from, loader, run)
    config = model.build(**({"vocab_size": vocab_size} if model.config in PRESETS else {}))
    # A vocabulary padded to a multiple of 8 or 64: that its real tokens agree is known of --init_from alone.
    padding = config.vocab_size - vocab_size
    if padding > 0 and (run.init_from or (config.vocab_size % 8 == 0 and padding < 128)):
        note(f"vocab_size={config.vocab_size} of {model.config} pads the {vocab_size} words of {run.data} by {padding}")
        return config.replace(real_vocab_size=vocab_size)
    if padding:
        raise UserError(
            f"vocab_size={config.vocab_size} of {model.config} does not match the {vocab_size} words that {run.data} "
            "was prepared with; prepare with that model's vocabulary, or give a config of this size"
        )
    return config


def check_vocabulary(fingerprint: bytes, folder: str, loader: PretrainingLoader, run: RunOptions) -> None:
    """UserError where `folder`'s vocabulary is not the one of the training data."""
    if fingerprint != loader.corpus.vocabulary_fingerprint:
        raise UserError(
            f"the vocabulary of {folder} is not the one that {run.data} was prepared with: the same ids would mean "
            f"other words; prepare with the vocabulary of {folder}"
        )


def check_trainable(config: AlbertConfig, data: DataConfig) -> None:
    """UserError where a config cannot be pretrained on such data."""
    config.check_length(data.max_seq_length)
    if config.attention_probs_dropout_prob > 0:
        raise UserError(
            f"attention_probs_dropout_prob={config.attention_probs_dropout_prob} cannot be trained here (flash "
            "attention on packed sequences has no dropout); give --attention_probs_dropout_prob 0, and for dropout "
            "--hidden_dropout_prob"
        )
    if config.type_vocab_size < 2 and data.sentence_order:
        raise UserError(f"type_vocab_size={config.type_vocab_size} has no second segment; use 2 or --no-sentence_order")


def build_model(config: AlbertConfig, run: RunOptions, train: TrainConfig, folder: RunFolder) -> AlbertForPreTraining:
    """The model to train, with the weights of --init_from where the run begins."""
    model = AlbertForPreTraining(config, ops=train.ops)
    if run.init_from and not folder.found:
        source = checkpoint_folder(run.init_from)
        weights = unshare(read_weights(source), AlbertConfig.from_pretrained(source), config)
        model.load_weights(weights, str(source))
    return model
