"""The command line within this process."""

import pytest

from albert_fast.cli import main


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """The standard error of `albert-fast WORDS`, which must exit with `code`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main(words)
    assert ending.value.code == code
    return capsys.readouterr().err
