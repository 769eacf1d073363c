"""Cache of the implementations chosen on this card, as readable JSON in the user's cache folder.

There is one file per card, driver, torch, Triton and hash of our kernel sources. It maps each problem (including dtype
and shape class) to the name of a candidate. Files are written atomically, by one process at a time.
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
    """Key of the cache: the card, its driver, and the versions of the software that compiles and launches kernels."""
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
    """Hash of our kernel sources, since a changed kernel must be tuned again."""
    spec = find_spec("albert_fast.kernels")
    assert spec is not None
    assert spec.origin is not None
    sources = sorted(Path(spec.origin).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.name.encode() + file.read_bytes() for file in sources)).hexdigest()[:16]


def path(known: dict[str, str]) -> Path:
    """Cache file of this card and these versions; in the temporary folder for users without a home (containers)."""
    home = os.path.expanduser("~")  # "~" if there is no home
    root = Path(os.environ.get("XDG_CACHE_HOME") or (tempfile.gettempdir() if home == "~" else f"{home}/.cache"))
    name = re.sub(r"[^a-z0-9]+", "-", known["card"].lower()).strip("-")
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
    return root / "albert_fast" / f"{name}-{digest}.json"


def load(known: dict[str, str]) -> dict[str, str]:
    """Cached names by problem; {} if there is no file or it is damaged."""
    try:
        document = json.loads(path(known).read_text())
        if not is_sealed(document) or document["for"] != known:
            raise ValueError("its content is not what was written")
        return dict(document["choice"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        note(f"{path(known)} is damaged ({error}); tuning again")
        return {}


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Exclude other processes between reading and writing, if the file system supports locks."""
    with open(file.with_suffix(".lock"), "wb") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def store(known: dict[str, str], choice: dict[str, str], seconds: dict[str, dict[str, float]]) -> None:
    """Store `choice`, with the median seconds of all timed candidates for human readers."""
    file = path(known)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file):
            kept = {"for": known, "choice": {**load(known), **choice}, "median_seconds": seconds}
            write_json(file, seal(kept))
    except (OSError, UserError) as error:  # not fatal for the run
        note(f"{file} could not be written ({error}); the next run will tune again")
