"""albert-fast: one subcommand a job. Parses, builds the option dataclasses, calls one function."""

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

# name: (function in albert_fast, one line for the overview). Its parameters are option dataclasses, their fields flags.
COMMANDS: dict[str, tuple[str, str]] = {
    "prepare": ("data.prepare:prepare", "text -> folder of token shards, once"),
    "verify": ("data.verify:verify", "check every byte of a prepared folder"),
    "inspect": ("data.inspection:inspect", "examples and statistics of the batches of a prepared folder"),
    "pretrain": ("pretrain:pretrain", "prepared folder -> checkpoints: the main job"),
    "plot": ("plot:plot", "loss, accuracy, rate and throughput of runs, as a PNG"),
    "demo": ("demo:demo", "the whole path on text that ships with Python, in about two minutes"),
    "convert": ("convert.command:convert", "other projects' weights in, HuggingFace's format out"),
    "finetune": ("downstream.finetune:finetune", "train a classifier of sentences or pairs on labelled examples"),
    "evaluate": ("downstream.evaluate:evaluate", "score a classifier, write its predictions"),
    "fill-mask": ("downstream.predict:fill_mask", "the words a model puts into gaps"),
    "embed": ("downstream.predict:embed", "vectors of texts, to a .npy file"),
    "profile": ("measure.profiling:profile_command", "time of a training step by stage and op, with a trace"),
    "memory": ("measure.memory:memory", "memory of a step per share_type: predicted, measured, fitted"),
    "doctor": ("measure.doctor:doctor", "is everything right on this machine, and which implementations are fastest"),
    "sizes": ("measure.sizes:sizes", "albert_pytorch's model-size table, and every preset's"),
}


# Flags of other trainers, and what means the same here; the first that a command has is named.
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
    """Errors are one line and exit code 2; --a_flag and --a-flag are the same flag."""

    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=36, width=120)

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `albert-fast ARGUMENTS`; exits with 2 and one line on standard error where the input is at fault."""
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"  # users have no use for our source lines
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _overview()
    elif arguments[0] == "--version":
        print(f"albert-fast {__version__}")
    else:
        name, *rest = arguments
        run(f"albert-fast {name}", lambda: _find(name), rest)


def run(program: str, find: Callable[[], Callable[..., None]], arguments: Sequence[str]) -> None:
    """Parse `arguments` for the function that `find` gives and call it; the user's errors are one line and exit code 2.

    `find` is called here so that what goes wrong in it (an unknown command) is told in the same way.
    """
    try:
        _call(program, find(), arguments)
    except UserError as error:
        _fail(program, str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output, `head` perhaps, has left
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


def _find(name: str) -> Callable[..., None]:
    if name not in COMMANDS:
        raise UserError(f"{name!r} is no command; use one of {', '.join(COMMANDS)}")
    module, function = COMMANDS[name][0].split(":")
    return getattr(importlib.import_module(f"albert_fast.{module}"), function)


def _call(program: str, function: Callable[..., None], arguments: Sequence[str]) -> None:
    hints = {k: t for k, t in typing.get_type_hints(function).items() if k != "return"}
    parser = _parser(program, function, hints)
    parsed, unknown = parser.parse_known_args([_underscored(argument) for argument in arguments])
    if unknown:
        parser.error(_unknown(unknown[0], [f.name for kind in hints.values() for f in fields(kind)]))
    given = vars(parsed)
    # A command that can go on with an earlier run knows what that run was given.
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
    """What to say of an argument that is no flag: the flag that is meant, where that can be told."""
    name = argument.removeprefix("--").split("=")[0]
    if not argument.startswith("--"):
        return f"{argument!r} follows no flag that takes it"
    same = [flag for flag in _SAME_ELSEWHERE.get(name, ()) if flag in known]
    close = same or difflib.get_close_matches(name, known, n=1)
    return f"--{name} is no flag of this command" + (f"; did you mean --{close[0]}?" if close else "")


def _underscored(argument: str) -> str:
    """--a-flag=value as --a_flag=value; the no of --no-a_flag keeps its dash, as argparse makes it."""
    if not argument.startswith("--"):
        return argument
    flag, *value = argument[2:].split("=", 1)
    flag = flag.replace("-", "_")
    return "=".join(["--" + ("no-" + flag[3:] if flag.startswith("no_") else flag), *value])


def _parser(program: str, function: Callable[..., None], hints: dict[str, type]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        description=re.split(r"\n\s*(?:Args|Returns|Raises):", function.__doc__ or "")[0],
        formatter_class=_Help,
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
    """One flag from one field: its type, its choices, its default and its help line."""
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
        # Which of them is checked where the options are made, as it is for those made in Python.
        group.add_argument(name, metavar="|".join(typing.get_args(kind)), help=help_text)
    elif typing.get_origin(kind) in (tuple, list):
        item = typing.get_args(kind)[0]
        group.add_argument(name, nargs="+", type=item, metavar=item.__name__.upper(), help=help_text)
    else:
        group.add_argument(name, type=kind, metavar=f.metadata.get("metavar", kind.__name__.upper()), help=help_text)
