"""Atomic writes: on a full disk, after a kill, beside a live writer; and checksums of documents."""

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


def test_a_file_is_written_atomically(tmp_path):
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


def test_a_path_that_is_not_a_regular_file_is_not_replaced(tmp_path):
    """As root, a rename would replace /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with pytest.raises(UserError, match=f"{name} is not a regular file"):
            write_file(tmp_path / name, "text")
    assert (tmp_path / "link").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]


def test_a_folder_is_written_atomically(tmp_path):
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


def test_a_folder_exists_at_every_moment_of_its_replacement(tmp_path):
    folder, missed, ended = tmp_path / "a", [], threading.Event()
    with whole_folder(folder, replace=True) as partial:
        (partial / "file").write_text("0")

    def watch():
        while not ended.is_set():
            if not (folder / "file").exists():
                missed.append(1)

    watching = threading.Thread(target=watch)
    watching.start()
    for number in range(50):
        with whole_folder(folder, replace=True) as partial:
            (partial / "file").write_text(str(number))
    with suppress(KeyError), whole_folder(folder, replace=True):
        raise KeyError
    ended.set()
    watching.join()
    assert (folder / "file").read_text() == "49"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    if not _exchanged(folder, folder):
        pytest.skip("this file system cannot swap two names at once")
    assert not missed


@pytest.mark.parametrize("write", [
    lambda path: write_file(path, bytes(100_000)),
    lambda path: save_tensors({"weight": torch.zeros(100_000)}, path),
], ids=["bytes", "tensors"])  # fmt: skip
def test_a_full_disk_names_the_file_and_keeps_the_old_one(small_disk, write):
    file = small_disk / "weights"
    write_file(file, "old")
    with pytest.raises(UserError, match=rf"output {file} could not be written: .*[Nn]o space left.*; free some space"):
        write(file)
    assert file.read_text() == "old"
    assert [path.name for path in small_disk.iterdir()] == ["weights"]


def test_a_full_disk_leaves_a_log_unchanged(small_disk):
    log, line = small_disk / "metrics.jsonl", "x" * 999
    for _ in range(65):
        append_line(log, line)
    with pytest.raises(UserError, match=rf"output {log} could not be written: No space left on device; free some"):
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


def test_partial_files_of_dead_writers_are_removed_and_of_live_ones_kept(tmp_path):
    file = tmp_path / "a"
    with subprocess.Popen([sys.executable, "-c", WRITE_SLOWLY, file], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        write_file(file, "ours")
        assert len(list(tmp_path.iterdir())) == 2
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    write_file(file, "ours again")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_seal_matches_only_its_own_content():
    document = seal({"b": 1, "a": [2.5, "信"]})
    assert is_sealed(json.loads(json.dumps(document)))
    assert is_sealed({key: document[key] for key in sorted(document)})
    assert not is_sealed({**document, "b": 2})
    assert not is_sealed({"b": 1})


def test_an_unwritable_path_is_named():
    with pytest.raises(UserError, match=r"output /dev/full/a could not be written: .*; use a writable folder"):
        write_file(Path("/dev/full/a"), "")


def test_changed_settings_of_a_run_are_refused():
    check_unchanged({"seed": 1, "shapes": (1, 2), "new": 3}, {"seed": 1, "shapes": [1, 2], "other": 4})
    with pytest.raises(UserError, match=r"^seed=2 differs from the run's 1, .*; keep --seed as it was"):
        check_unchanged({"seed": 2}, {"seed": 1})


def test_no_descriptor_is_leaked(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        write_file(tmp_path / "a", "")
        with whole_folder(tmp_path / "b") as partial:
            (partial / "c").touch()
        (tmp_path / "b" / "c").unlink()
        (tmp_path / "b").rmdir()
    assert len(os.listdir("/proc/self/fd")) == before


def test_every_document_is_written_as_strict_json():
    """json.dumps writes NaN and Infinity, which few parsers accept; strict_json writes null."""
    root = Path(__file__).resolve().parents[1]
    found = [
        f"{file.name}: {line.strip()}"
        for folder in ("albert_fast", "bench", "kernels")
        for file in sorted((root / folder).rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?:print|write|write_text)\(json\.dumps\(", line)
    ]
    assert not [line for line in found if not line.startswith("sweep_finetune.py")], found
