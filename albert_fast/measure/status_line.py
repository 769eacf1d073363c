"""Progress on standard error during long predictions: a status line on a terminal, else plain lines."""

from __future__ import annotations

from rich.console import Console


class StatusLine:
    """Context manager that shows the current task and its latest news."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status = self._console.status("")
        self._what = ""

    def __enter__(self) -> StatusLine:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def begin(self, what: str) -> None:
        """Start the task `what`."""
        self._what = what
        self.tell("")

    def tell(self, news: str) -> None:
        """Show news about the current task."""
        line = f"{self._what}: {news}" if news else self._what
        if self._console.is_terminal:
            self._status.update(line)
        else:
            self._console.print(line, highlight=False)
