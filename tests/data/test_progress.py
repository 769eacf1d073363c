"""How far a part has come: stopped at any moment it goes on to the same bytes, over the same text alone."""

import gzip
import os
import signal

import pytest
from support.preparing import corpus, files, run, write

from albert_fast.options import UserError


class Stop:
    """Kills this process with SIGKILL at the n-th time that a file is put in its place, before or after it."""

    def __init__(self, countdown, after):
        self.countdown, self.after = countdown, after
        self.replace = os.replace

    def __call__(self, source, target):
        self.countdown -= 1
        if self.countdown == 0 and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.replace(source, target)
        if self.countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_step_it_goes_on_to_the_same_bytes(tmp_path, vocab, small_chunks, after):
    inputs = [write(tmp_path / "a.txt", corpus(3, 12)), write(tmp_path / "b.txt.gz", gzip.compress(corpus(4, 5)))]
    run(inputs, tmp_path / "whole", vocab)
    expected = files(tmp_path / "whole")
    for step in range(1, 1000):
        folder = tmp_path / f"stopped{step}"
        child = os.fork()
        if child == 0:
            os.replace = Stop(step, after)
            run(inputs, folder, vocab)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        run(inputs, folder, vocab)
        assert files(folder) == expected
    assert step > len(expected) + 4


def test_text_changed_after_a_stop_is_refused(tmp_path, vocab, small_chunks):
    content = corpus(8)
    source = write(tmp_path / "t.txt", content[:-3] + b"\xff\n\n")  # stops it after most of the shards
    with pytest.raises(UserError, match=r"t\.txt line \d+"):
        run([source], tmp_path / "out", vocab)
    assert len(list((tmp_path / "out").glob("shard-*.bin"))) > 1
    source.write_bytes(content[:-3] + b"a\n\n")
    shard = next((tmp_path / "out").glob("shard-*.bin"))
    before = shard.stat().st_mtime_ns
    run([source], tmp_path / "out", vocab)  # the rest may change: the text behind the shards is the same
    assert shard.stat().st_mtime_ns == before
    run([source], tmp_path / "whole", vocab)
    assert files(tmp_path / "out") == files(tmp_path / "whole")

    source.write_bytes(content[:-3] + b"\xff\n\n")
    with pytest.raises(UserError, match=r"t\.txt line \d+"):
        run([source], tmp_path / "other", vocab)
    source.write_bytes(b"h" + content[1:])
    with pytest.raises(UserError, match="is not the text that"):
        run([source], tmp_path / "other", vocab)
