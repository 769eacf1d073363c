"""What was chosen is remembered for one card and its versions, and believed only as it was written."""

import multiprocessing
import pwd
import tempfile
from pathlib import Path

import pytest
import torch

from albert_fast.tuning import cache

KNOWN = {"card": "NVIDIA H100 80GB HBM3", "driver": "550", "torch": "2.5", "triton": "3.1", "kernels": "abc"}


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_choices_of_one_card_add_up_and_others_see_none(tmp_path: Path) -> None:
    assert cache.load(KNOWN) == {}
    cache.store(KNOWN, {"gelu": "library"}, {"gelu": {"library": 0.5}})
    cache.store(KNOWN, {"norm": "rows 4"}, {})
    assert cache.load(KNOWN) == {"gelu": "library", "norm": "rows 4"}
    assert cache.path(KNOWN).parent == tmp_path / "albert_fast"
    assert cache.path(KNOWN).name.startswith("nvidia-h100-80gb-hbm3-")
    for name in KNOWN:
        assert cache.load({**KNOWN, name: "another"}) == {}


def test_another_byte_or_another_cards_file_is_noted_and_not_believed(capsys: pytest.CaptureFixture[str]) -> None:
    cache.store(KNOWN, {"gelu": "library"}, {})
    file = cache.path(KNOWN)
    other = {**KNOWN, "driver": "560"}
    cache.path(other).write_bytes(file.read_bytes())
    assert cache.load(other) == {}
    file.write_text(file.read_text().replace("library", "pointer"))
    assert cache.load(KNOWN) == {}
    assert capsys.readouterr().err.count("is damaged") == 2


def test_a_card_is_described_by_its_versions() -> None:
    known = cache.card(torch.device("cpu"))
    assert known.keys() == KNOWN.keys()
    assert (known["card"], known["torch"], known["kernels"]) == ("cpu", torch.__version__, cache.kernels_hash())


def store_fifteen(name: str) -> None:
    for turn in range(15):
        cache.store(KNOWN, {f"{name} {turn}": "library"}, {})
        assert cache.load(KNOWN)[f"{name} {turn}"] == "library"


def test_a_user_without_a_home_remembers_among_temporary_files(tmp_path, monkeypatch) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache.path(KNOWN).is_relative_to(tmp_path)


def test_two_processes_at_once_lose_nothing_and_read_nothing_torn() -> None:
    """Each adds 15 choices and sees them all, while this one reads."""
    writers = [multiprocessing.get_context("fork").Process(target=store_fifteen, args=(name,)) for name in ("a", "b")]
    seen = 0
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        choices = len(cache.load(KNOWN))
        assert choices >= seen
        seen = choices
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(cache.load(KNOWN)) == 30
    assert {path.suffix for path in cache.path(KNOWN).parent.iterdir()} == {".json", ".lock"}
