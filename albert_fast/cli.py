"""The command line: parses flags into option dataclasses and calls the command's function."""

import argparse
import difflib
import importlib
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Literal

from albert_fast import __version__
from albert_fast.options import UserError

# name: (module:function, summary). The function's parameters are option dataclasses, whose fields are the flags.
COMMANDS: dict[str, tuple[str, str]] = {
    "prepare": ("data.prepare:prepare", "tokenize text into a folder of token shards, once"),
    "verify": ("data.verify:verify", "check every byte of a prepared folder"),
    "inspect": ("data.inspection:inspect", "show examples and statistics of a prepared folder's batches"),
    "pretrain": ("pretrain:pretrain", "pretrain on a prepared folder: the main job"),
    "plot": ("plot:plot", "plot loss, accuracy, learning rate and throughput of runs as a PNG"),
    "demo": ("demo:demo", "run the whole pipeline on text that ships with Python, in about two minutes"),
    "convert": ("convert.command:convert", "convert weights from other projects, or to HuggingFace's format"),
    "finetune": ("downstream.finetune:finetune", "train a classifier of sentences or sentence pairs"),
    "evaluate": ("downstream.evaluate:evaluate", "score a classifier and write its predictions"),
    "fill-mask": ("downstream.predict:fill_mask", "show a model's predictions for [MASK] tokens"),
    "embed": ("downstream.predict:embed", "write embeddings of texts to a .npy file"),
    "profile": ("measure.profiling:profile_command", "time a training step by stage and op, and write a trace"),
    "memory": ("measure.memory:memory", "predict or measure the memory of a step for each share_type"),
    "doctor": ("measure.doctor:doctor", "check the installation and find the fastest implementations"),
    "sizes": ("measure.sizes:sizes", "print albert_pytorch's table of model sizes, and that of the presets"),
}

# Flags of other trainers and their equivalents here; an error names the first one that the command has.
_SAME_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "epochs": ("max_steps",),
    "num_train_epochs": ("epochs", "max_steps"),
    "batch_size": ("tokens_per_batch",),
    "train_batch_size": ("batch_size", "tokens_per_batch"),
    "per_device_train_batch_size": ("batch_size", "tokens_per_batch"),
    "steps": ("max_steps",),
    "model": ("init_from", "config"),
    "model_name_or_path": ("model", "init_from", "config"),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "no_cuda": ("device",),
    "num_workers": ("loader_threads", "workers"),
    "max_seq_len": ("max_seq_length",),
    "max_len": ("max_seq_length",),
    "warmup": ("warmup_steps", "warmup_ratio"),
    "warmup_proportion": ("warmup_ratio", "warmup_steps"),
    "output_dir": ("output",),
    "data_dir": ("data", "train"),
    "dropout": ("hidden_dropout_prob",),
}


class _Parser(argparse.ArgumentParser):
    """Reports errors as one line with exit code 2."""

    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None, imported: Callable[[], object] = lambda: None) -> None:
    """Run `albert-fast ARGUMENTS`; bad input exits with code 2 and one line on standard error.

    Args:
        imported: called once the command's module has been imported.
    """
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"  # without the source line
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _overview()
    elif arguments[0] == "--version":
        print(f"albert-fast {__version__}")
    else:
        name, *rest = arguments
        run(f"albert-fast {name}", lambda: _find(name, imported), rest)


def run(program: str, find: Callable[[], Callable[..., None]], arguments: Sequence[str]) -> None:
    """Parse `arguments` for the function that `find` returns and call it; user errors are one line and exit code 2.

    `find` is called here so that its errors (an unknown command) are reported the same way.
    """
    try:
        _call(program, find(), arguments)
    except UserError as error:
        _fail(program, str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output (`head`, say) has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _fail(program, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _overview() -> None:
    print("usage: albert-fast COMMAND [--flag VALUE ...]\n\nPretrain ALBERT fast and clearly.\n\ncommands:")
    for name, (_, line) in COMMANDS.items():
        print(f"  {name:<12} {line}")
    print("\n`albert-fast COMMAND --help` lists a command's flags; --a_flag and --a-flag are the same.")


def _fail(program: str, message: str, exit_code: int = 2) -> typing.NoReturn:
    sys.stderr.write(f"{program}: error: {' '.join(message.split())}\n")
    sys.exit(exit_code)


def _find(name: str, imported: Callable[[], object]) -> Callable[..., None]:
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; use one of {', '.join(COMMANDS)}")
    path, function = COMMANDS[name][0].split(":")
    module = importlib.import_module(f"albert_fast.{path}")
    imported()
    return getattr(module, function)


def _call(program: str, function: Callable[..., None], arguments: Sequence[str]) -> None:
    hints = {k: t for k, t in typing.get_type_hints(function).items() if k != "return"}
    parser = _parser(program, function, hints)
    parsed, unknown = parser.parse_known_args([_underscored(argument) for argument in arguments])
    if unknown:
        parser.error(_unknown(unknown[0], [f.name for kind in hints.values() for f in fields(kind)]))
    given = vars(parsed)
    # A command that can resume a run takes the flags not given from that run.
    saved_options = getattr(sys.modules[function.__module__], "saved_options", None)
    values = {**(saved_options(given) if saved_options else {}), **given}
    options = {}
    for parameter, kind in hints.items():
        missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
        if missing:
            parser.error(f"the following flags are required: {', '.join(missing)}")
        options[parameter] = kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})
    function(**options)


def _unknown(argument: str, known: list[str]) -> str:
    """The error for an argument that argparse does not know, with the flag probably meant."""
    name = argument.removeprefix("--").split("=")[0]
    if not argument.startswith("--"):
        return f"unexpected argument {argument!r}"
    same = [flag for flag in _SAME_ELSEWHERE.get(name, ()) if flag in known]
    close = same or difflib.get_close_matches(name, known, n=1)
    return f"unknown flag --{name}" + (f"; did you mean --{close[0]}?" if close else "")


def _underscored(argument: str) -> str:
    """--a-flag=value as --a_flag=value; --no-a_flag keeps the first dash, as argparse spells it."""
    if not argument.startswith("--"):
        return argument
    flag, *value = argument[2:].split("=", 1)
    flag = flag.replace("-", "_")
    return "=".join(["--" + ("no-" + flag[3:] if flag.startswith("no_") else flag), *value])


def _parser(program: str, function: Callable[..., None], hints: dict[str, type]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        description=re.split(r"\n\s*(?:Args|Returns|Raises):", function.__doc__ or "")[0],
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=120),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for kind in hints.values():
        group = parser.add_argument_group((kind.__doc__ or "").strip().split("\n")[0].rstrip("."))
        types_of = typing.get_type_hints(kind)
        for f in fields(kind):
            _add_flag(group, f, types_of[f.name])
    return parser


def _add_flag(group: argparse._ArgumentGroup, f: Field, kind: Any) -> None:
    """Add the flag of one dataclass field."""
    name = f"--{f.name}"
    help_text = str(f.metadata.get("help", "")).replace("%", "%%")
    shown = " ".join(f.default) if isinstance(f.default, tuple) else "yes" if f.default is True else f.default
    default = "required" if f.default is MISSING else f"default: {shown}"
    if f.default not in (None, "", ()) and f.default is not False:
        help_text += f" ({default})"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # X | None
        kind = next(t for t in typing.get_args(kind) if t is not type(None))
    if f.metadata.get("positional"):
        many = "+" if typing.get_origin(kind) is tuple else None
        group.add_argument(f.name, metavar=f.name.upper(), nargs=many, help=help_text)
    elif kind is bool:
        group.add_argument(name, action=argparse.BooleanOptionalAction, help=help_text)
    elif typing.get_origin(kind) is Literal:
        # The dataclass checks the value, as it does for options made in Python.
        group.add_argument(name, metavar="|".join(typing.get_args(kind)), help=help_text)
    elif typing.get_origin(kind) in (tuple, list):
        item = typing.get_args(kind)[0]
        group.add_argument(name, nargs="+", type=item, metavar=item.__name__.upper(), help=help_text)
    else:
        group.add_argument(name, type=kind, metavar=f.metadata.get("metavar", kind.__name__.upper()), help=help_text)
