"""Progress of one part of `prepare`: a small file written after every shard, and its validation on resume."""

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
    """Totals that a part of `prepare` has read and written so far."""

    bytes: int = 0
    tokens: int = 0
    sentences: int = 0
    documents: int = 0
    unknown_tokens: int = 0
    blank_lines: int = 0


@dataclass
class Progress:
    """State of one part: its identity, and how much is done.

    Attributes:
        settings: everything besides the text that determines the folder's bytes.
        position: text before this position is in `shards`; span_crcs: CRC32C of that text, one per span.
        shards: manifest entries of the finished shards.
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
        """Load the progress of an earlier run; raises UserError if the folder belongs to another run."""
        others = {path: saved for path in self.directory.glob("progress-*.json") if (saved := read_progress(path))}
        if not others and (foreign := held_files(self.directory)):
            raise UserError(f"output {self.directory} is not empty (it holds {foreign[0]}); give an empty folder")
        if self.parts == 1 and others and not any(saved["shards"] for saved in others.values()):
            for path in (self.directory / "tokenizer.json", *others):  # nothing is lost, so settings may change
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
                raise UserError(f"output {path}: is missing or damaged; delete the folder and prepare it again")

    def save(self) -> None:
        write_json(self.file(self.part), {key: value for key, value in asdict(self).items() if key in SAVED})


def check_settings(given: dict[str, Any], before: dict[str, Any]) -> None:
    """Raise UserError if settings differ from those the folder was started with; unrecorded ones were not set."""
    check_unchanged(given, dict.fromkeys(given) | before)


def check_text(directory: Path, spans: list[Span], crcs: list[int], until: Position | None) -> None:
    """Raise UserError if the input text, up to `until` or to its end, is not what the folder was made from."""
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
    """Content of a part's progress file; {} if there is none (it is removed when the parts are joined)."""
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
    """Remove files that only an unfinished folder needs."""
    remove_partials(directory)
    for pattern in ("progress-*.json", "*.lock", "shard-*.partial"):
        for path in directory.glob(pattern):
            with suppress(OSError):
                path.unlink()
