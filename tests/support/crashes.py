"""Jobs in processes of their own, which tests kill, interrupt or run out of disk space at chosen moments.

A job runs in a fork of this process, which has imported everything: starting one takes milliseconds instead of the
seconds of a new interpreter, so a test can try hundreds of moments.
"""

import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albert_fast.files import file_crc
from albert_fast.options import UserError

USER_ERROR, OTHER_ERROR = 2, 1
SAID = Path(tempfile.mkdtemp(prefix="said-"))  # what each process printed, outside the disk that is full


@dataclass(frozen=True)
class Job:
    """One command and how it is resumed.

    start and resume take the output folder; results are patterns of the files that must equal those of an undisturbed
    run; ranks is the number of processes, which get torchrun's variables.
    """

    name: str
    start: Callable[[Path], None]
    resume: Callable[[Path], None]
    results: tuple[str, ...]
    ranks: int = 1

    def digest(self, output: Path) -> dict[str, int]:
        """The checksum of every result by name."""
        files = [path for pattern in self.results for path in sorted(output.glob(pattern))]
        return {str(path.relative_to(output)): file_crc(path) for path in files}

    def leftovers(self, output: Path) -> list[str]:
        """Temporary files, which a finished job must not leave."""
        inside = [path.name for path in output.rglob("*") if ".partial" in path.name or ".tmp" in path.name]
        return inside + [path.name for path in output.parent.glob(f".{output.name}*")]


def launch(function: Callable[..., None], *arguments: Any, ranks: int = 1) -> list[int]:
    """Run `function(*arguments)` in `ranks` forks, each the leader of a process group; returns their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        process = os.fork()
        if process == 0:
            code = OTHER_ERROR
            try:
                os.setpgid(0, 0)
                sys.stdout, sys.stderr = (open(SAID / f"{os.getpid()}-{n}", "w") for n in (1, 2))  # noqa: SIM115
                os.dup2(sys.stdout.fileno(), 1)
                os.dup2(sys.stderr.fileno(), 2)
                torch.set_num_threads(1)
                torch.cuda.is_available = lambda: False  # a fork cannot use a device that its parent has initialized
                if ranks > 1:
                    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in given.items()}}
                function(*arguments)
                code = 0
            except (UserError, OSError) as error:  # the command line prints these in one line
                print(f"error: {error}", file=sys.stderr)
                code = USER_ERROR
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else OTHER_ERROR
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        processes.append(process)
    return processes


def finish(processes: list[int], seconds: float = 120) -> list[int]:
    """Wait for the processes; their exit codes, negative for a signal. One that hangs is killed and is an error."""
    codes, ends = [], time.monotonic() + seconds
    for process in processes:
        while True:
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes.append(os.waitstatus_to_exitcode(status))
                break
            if time.monotonic() > ends:
                kill(processes, signal.SIGKILL)
                raise AssertionError(f"process {process} hangs")
            time.sleep(0.005)
    return codes


def kill(processes: list[int], number: int) -> None:
    """Send a signal to every process and its children."""
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process, number)


def disturb(job: Job, output: Path, after_seconds: float, number: int) -> list[int]:
    """Start `job`, send it a signal after a while, and return its exit codes."""
    processes = launch(job.start, output, ranks=job.ranks)
    time.sleep(after_seconds)
    kill(processes, number)
    return finish(processes)


def recover(job: Job, output: Path) -> None:
    """Resume a disturbed job or start it again, as a user would; its output is the assertion's message."""
    for function in (job.resume, job.start):
        processes = launch(function, output, ranks=job.ranks)
        codes = finish(processes)
        if not any(codes):
            return
    errors = "".join(said(process)[1] for process in processes)
    raise AssertionError(
        f"{job.name} could be neither resumed nor started again in {output}: {codes}\n{errors[-3000:]}"
    )


def said(process: int) -> tuple[str, str]:
    """The standard output and standard error of a process that has ended."""
    out, error = ((SAID / f"{process}-{number}").read_text() for number in (1, 2))
    return out, error
