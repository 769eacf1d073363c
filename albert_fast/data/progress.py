"""How far a part of `prepare` has come: a small file after every shard, and the checks before it is believed."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from albert_fast._loader import crc32c
from albert_fast.data.text import CHUNK_BYTES, Position, Span
from albert_fast.files import held_files, remove_partials, write_json
from albert_fast.options import UserError, check_unchanged

SAVED = ("settings", "position", "shards", "span_crcs", "counts", "complete")


@dataclass
class Counts:
    """What a part of `prepare` has read and written so far."""

    bytes: int = 0
    tokens: int = 0
    sentences: int = 0
    documents: int = 0
    unknown_tokens: int = 0
    blank_lines: int = 0


@dataclass
class Progress:
    """One part of a run: whose it is, and what of it is done.

    Attributes:
        settings: what decides the folder's bytes beside the text itself.
        position: the text before it is in `shards`; span_crcs: the CRC32C of that text, one a span.
        shards: the manifest's entries of the finished shards.
    """

    directory: Path
    settings: dict[str, Any]
    spans: list[Span]
    part: int
    parts: int
    position: Position = field(init=False)
    span_crcs: list[int] = field(init=False)
    shards: list[dict[str, Any]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    complete: bool = False

    def __post_init__(self) -> None:
        self.position = Position(0, self.spans[0].start if self.spans else 0)
        self.span_crcs = [0] * len(self.spans)

    def file(self, part: int) -> Path:
        return self.directory / f"progress-{part:04d}-of-{self.parts:04d}.json"

    def load(self) -> None:
        """Take up the progress of an earlier run, and refuse a folder that is not this run's."""
        others = {path: saved for path in self.directory.glob("progress-*.json") if (saved := read_progress(path))}
        if not others and (foreign := held_files(self.directory)):
            raise UserError(f"output {self.directory} is not empty (it holds {foreign[0]}); give an empty folder")
        if self.parts == 1 and others and not any(saved["shards"] for saved in others.values()):
            for path in (self.directory / "tokenizer.json", *others):  # nothing to lose: settings may change
                path.unlink(missing_ok=True)
            others = {}
        for saved in others.values():
            check_settings(self.settings, saved["settings"])
        if self.file(self.part) not in others:
            self.save()
            return
        saved = others[self.file(self.part)]
        self.position, self.counts = Position(**saved["position"]), Counts(**saved["counts"])
        self.shards, self.complete = saved["shards"], saved["complete"]
        check_text(self.directory, self.spans, saved["span_crcs"], None if self.complete else self.position)
        self.span_crcs = saved["span_crcs"]
        for shard in self.shards:
            path = self.directory / shard["file"]
            if not path.exists() or path.stat().st_size != shard["bytes"]:
                raise UserError(f"output {path}: is missing or not whole; delete the folder and prepare it again")

    def save(self) -> None:
        write_json(self.file(self.part), {key: value for key, value in asdict(self).items() if key in SAVED})


def check_settings(given: dict[str, Any], before: dict[str, Any]) -> None:
    """Refuse other settings than the folder was begun with; what it does not record was not set."""
    check_unchanged(given, dict.fromkeys(given) | before)


def check_text(directory: Path, spans: list[Span], crcs: list[int], until: Position | None) -> None:
    """Refuse input whose text, up to a position or to its end, is not what the folder was made of."""
    if len(spans) != len(crcs):
        raise UserError(f"the input is not the text that {directory} was made from; give that text, or another output")
    if until is not None and spans:
        until_span = replace(spans[until.span], end=until.offset)
        spans, crcs = [*spans[: until.span], until_span], crcs[: until.span + 1]
    for span, crc in zip(spans, crcs, strict=True):
        if _text_crc(span) != crc:
            raise UserError(
                f"input {span.path} is not the text that {directory} was made from; give that text, or another output"
            )


def _text_crc(span: Span) -> int:
    crc, left = 0, (1 << 62) if span.end is None else span.end - span.start
    with span.file.open(span.start) as file:
        while block := file.read(min(left, CHUNK_BYTES)):
            crc, left = crc32c(block, crc), left - len(block)
    return crc


def read_progress(path: Path) -> dict[str, Any]:
    """What a part's progress file holds; nothing where there is none, perhaps no more since the parts were joined."""
    try:
        saved = json.loads(path.read_bytes())
        missing = [key for key in SAVED if key not in saved]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return saved
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"output {path}: {error}; delete the folder and prepare it again") from None


def sweep(directory: Path) -> None:
    """Remove what only an unfinished folder needs."""
    remove_partials(directory)
    for pattern in ("progress-*.json", "*.lock", "shard-*.partial"):
        for path in directory.glob(pattern):
            with suppress(OSError):
                path.unlink()
