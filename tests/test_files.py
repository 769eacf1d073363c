"""Files that are there whole or not at all: on a full disk, after a kill, beside a living writer."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from albert_fast.files import _exchanged, append_line, is_sealed, seal, whole_file, whole_folder, write_file, write_json
from albert_fast.options import UserError, check_unchanged
from albert_fast.pretrained import save_tensors


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"name": "信"})
    assert json.loads(file.read_text()) == {"name": "信"}
    with suppress(KeyError), whole_file(file) as partial:
        partial.write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with whole_file(file) as partial:
        partial.write_text("new")
        assert json.loads(file.read_text()) == {"name": "信"}
    assert file.read_text() == "new"


def test_what_is_no_regular_file_keeps_its_place(tmp_path):
    """Root would put a file in the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with pytest.raises(UserError, match=f"{name} is no regular file"):
            write_file(tmp_path / name, "text")
    assert (tmp_path / "link").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with suppress(KeyError), whole_folder(tmp_path / "a") as partial:
        (partial / "file").write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "a") as partial:
        (partial / "file").write_text("whole")
    assert (tmp_path / "a" / "file").read_text() == "whole"
    with pytest.raises(UserError, match="Directory not empty"), whole_folder(tmp_path / "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_replaced_is_there_at_every_moment(tmp_path):
    folder, missed, ended = tmp_path / "a", [], threading.Event()
    with whole_folder(folder, replace=True) as partial:
        (partial / "file").write_text("0")

    def look():
        while not ended.is_set():
            if not (folder / "file").exists():
                missed.append(1)

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(50):
        with whole_folder(folder, replace=True) as partial:
            (partial / "file").write_text(str(number))
    with suppress(KeyError), whole_folder(folder, replace=True):
        raise KeyError
    ended.set()
    looking.join()
    assert (folder / "file").read_text() == "49"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    if not _exchanged(folder, folder):
        pytest.skip("this file system cannot swap two names at once")
    assert not missed


@pytest.mark.parametrize("write", [
    lambda path: write_file(path, bytes(100_000)),
    lambda path: save_tensors({"weight": torch.zeros(100_000)}, path),
], ids=["bytes", "tensors"])  # fmt: skip
def test_a_full_disk_names_the_file_and_leaves_the_old_one(small_disk, write):
    file = small_disk / "weights"
    write_file(file, "old")
    with pytest.raises(UserError, match=rf"output {file} could not be written: .*[Nn]o space left.*; make room"):
        write(file)
    assert file.read_text() == "old"
    assert [path.name for path in small_disk.iterdir()] == ["weights"]


def test_a_full_disk_leaves_a_log_as_it_was(small_disk):
    log, line = small_disk / "metrics.jsonl", "x" * 999
    for _ in range(65):
        append_line(log, line)
    with pytest.raises(UserError, match=rf"output {log} could not be written: No space left on device; make room"):
        append_line(log, line)
    assert log.read_text() == f"{line}\n" * 65


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from albert_fast.files import whole_file
with whole_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    file = tmp_path / "a"
    with subprocess.Popen([sys.executable, "-c", WRITE_SLOWLY, file], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        write_file(file, "ours")
        assert len(list(tmp_path.iterdir())) == 2
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    write_file(file, "ours again")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_seal_holds_for_its_own_content_alone():
    document = seal({"b": 1, "a": [2.5, "信"]})
    assert is_sealed(json.loads(json.dumps(document)))
    assert is_sealed({key: document[key] for key in sorted(document)})
    assert not is_sealed({**document, "b": 2})
    assert not is_sealed({"b": 1})


def test_a_place_that_cannot_be_written_is_named():
    with pytest.raises(UserError, match=r"output /dev/full/a could not be written: .*; give a folder"):
        write_file(Path("/dev/full/a"), "")


def test_a_run_goes_on_with_the_settings_it_began_with():
    check_unchanged({"seed": 1, "shapes": (1, 2), "new": 3}, {"seed": 1, "shapes": [1, 2], "other": 4})
    with pytest.raises(UserError, match=r"^seed=2 differs from the run's 1, .*; keep --seed as it was"):
        check_unchanged({"seed": 2}, {"seed": 1})


def test_nothing_of_a_file_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        write_file(tmp_path / "a", "")
        with whole_folder(tmp_path / "b") as partial:
            (partial / "c").touch()
        (tmp_path / "b" / "c").unlink()
        (tmp_path / "b").rmdir()
    assert len(os.listdir("/proc/self/fd")) == before


def test_every_document_that_is_shown_or_written_is_strict_json():
    """NaN and infinity as bare words, which json.dumps writes, are read by few programs; strict_json has null."""
    root = Path(__file__).resolve().parents[1]
    found = [
        f"{file.name}: {line.strip()}"
        for folder in ("albert_fast", "bench", "kernels")
        for file in sorted((root / folder).rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?:print|write|write_text)\(json\.dumps\(", line)
    ]
    assert not [line for line in found if not line.startswith("sweep_finetune.py")], found
