"""One part's text to shards: a disk without room, and memory that is bounded."""

import os
import resource
import signal
import subprocess
import sys

import pytest
from support.preparing import corpus, files, run, write

from albert_fast.options import UserError


def test_no_room_is_one_line_and_the_run_goes_on_later(tmp_path, vocab, small_chunks):
    source = write(tmp_path / "t.txt", corpus(2))
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            run([source], tmp_path / "out", vocab, shard_tokens=4000)
        except UserError as error:
            os._exit(0 if "File too large" in str(error) and "\n" not in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert not list((tmp_path / "out").glob("shard-*.partial"))
    run([source], tmp_path / "out", vocab, shard_tokens=4000)
    run([source], tmp_path / "whole", vocab, shard_tokens=4000)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path, vocab):
    """One line, one document and many documents of 128 MB cost what 64 MB cost: buffers are full well before."""
    code = (
        "import sys; from albert_fast.data.prepare import *;"
        "prepare(PrepareOptions(input=(sys.argv[1],), output=sys.argv[2], vocab=sys.argv[3], workers=1));"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    for name, unit in {"line": b"abcd ab ", "document": b"abcd ab\n", "documents": b"abcd ab\n\n"}.items():
        peaks = []
        for megabytes in (64, 128):
            path = write(tmp_path / f"{name}{megabytes}.txt", unit * (megabytes * 1_000_000 // len(unit)))
            command = [sys.executable, "-c", code, str(path), str(tmp_path / f"{name}{megabytes}"), vocab]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append(int(output.split()[-2]) / 1024)
        assert peaks[1] - peaks[0] < 20, (name, peaks)
