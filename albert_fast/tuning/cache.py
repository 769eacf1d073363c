"""What was chosen on this card before: a readable JSON document under the user's cache folder.

One file for each card, driver, torch, Triton and state of our kernels' sources; in it a name for each problem, which
holds dtype and shape class. A file is written whole, by one process at a time.
"""

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from albert_fast.files import is_sealed, seal, write_json
from albert_fast.options import UserError, note


def card(device: torch.device) -> dict[str, str]:
    """What a choice holds for: the card, its driver, and the versions of what compiles and launches."""
    known = {"card": "cpu", "driver": ""}
    if device.type == "cuda":
        known = {"card": torch.cuda.get_device_name(device), "driver": _driver()}
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    return {**known, "torch": torch.__version__, "triton": triton, "kernels": kernels_hash()}


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text().split("\n")[0]
    except OSError:
        return torch.version.cuda or torch.version.hip or ""


def kernels_hash() -> str:
    """A hash of the sources of our kernels: another kernel is another candidate."""
    spec = find_spec("albert_fast.kernels")
    assert spec is not None
    assert spec.origin is not None
    sources = sorted(Path(spec.origin).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.name.encode() + file.read_bytes() for file in sources)).hexdigest()[:16]


def path(known: dict[str, str]) -> Path:
    """The file for this card and these versions: among temporary files for users without a home, as in containers."""
    home = os.path.expanduser("~")  # stays as it is where there is none
    root = Path(os.environ.get("XDG_CACHE_HOME") or (tempfile.gettempdir() if home == "~" else f"{home}/.cache"))
    name = re.sub(r"[^a-z0-9]+", "-", known["card"].lower()).strip("-")
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
    return root / "albert_fast" / f"{name}-{digest}.json"


def load(known: dict[str, str]) -> dict[str, str]:
    """The names chosen before, by problem; {} where there is no file, or one that cannot be trusted."""
    try:
        document = json.loads(path(known).read_text())
        if not is_sealed(document) or document["for"] != known:
            raise ValueError("its content is not what was written")
        return dict(document["choice"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        note(f"{path(known)} is damaged ({error}); choosing anew")
        return {}


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Between reading and writing no other process does so, where the file system has locks."""
    with open(file.with_suffix(".lock"), "wb") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def store(known: dict[str, str], choice: dict[str, str], seconds: dict[str, dict[str, float]]) -> None:
    """Remember `choice`, with the median seconds of what was timed for who reads the file."""
    file = path(known)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file):
            kept = {"for": known, "choice": {**load(known), **choice}, "median_seconds": seconds}
            write_json(file, seal(kept))
    except (OSError, UserError) as error:  # the run does not need it
        note(f"{file} could not be written ({error}); the next run chooses again")
