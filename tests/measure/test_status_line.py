"""The status of long predictions goes to standard error, a line for each piece of news where that is no terminal."""

import pytest

from albert_fast.measure.status_line import StatusLine


def test_news_are_lines_that_name_their_work(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine() as progress:
        progress.begin("pricing tiny")
        progress.tell("1,024 tokens")
        progress.begin("pricing base")
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == ("", ["pricing tiny", "pricing tiny: 1,024 tokens", "pricing base"])
