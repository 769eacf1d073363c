"""The command line in this process."""

import pytest

from albert_fast.cli import main


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """What `albert-fast` with these words prints to standard error, where it has to end with `code`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main(words)
    assert ending.value.code == code
    return capsys.readouterr().err
