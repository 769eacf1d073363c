"""The entry point of `albert-fast` and of `python -m albert_fast`, which torchrun runs."""

import os
import signal

_before = signal.getsignal(signal.SIGINT)
if _before is signal.default_int_handler:  # an import may swallow KeyboardInterrupt or turn it into a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from albert_fast import cli  # noqa: E402


def main() -> None:
    """Run the command line; until its command has been imported, SIGINT ends the process with exit code 130."""
    cli.main(imported=lambda: signal.signal(signal.SIGINT, _before))


if __name__ == "__main__":
    main()
