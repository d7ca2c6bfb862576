"""What commands print: results on stdout, everything else on stderr."""

import contextlib
import json
import sys
from collections.abc import Iterable
from typing import Any

from ..texts import printable


class Console:
    """Prints results, messages and progress.

    Parameters
    ----------
    is_quiet : bool, default=False
        Results and errors only.
    is_json : bool, default=False
        Results as JSON.
    """

    def __init__(self, *, is_quiet: bool = False, is_json: bool = False):
        self.is_quiet, self.is_json = is_quiet, is_json

    @property
    def shows_progress(self) -> bool:
        """Whether there are bars: on terminals, unless quiet."""
        return not self.is_quiet and sys.stderr is not None and sys.stderr.isatty()

    @property
    def shows_progress_beside_results(self) -> bool:
        """Whether there are bars while results come, which do not go to the same terminal."""
        return self.shows_progress and not (sys.stdout is not None and sys.stdout.isatty())

    def result(self, text: str) -> None:
        """A line of results on stdout, at once."""
        _print(text, sys.stdout)

    def report(self, values: dict[str, Any], lines: Iterable[str]) -> None:
        """Results: ``values`` as one line of JSON where JSON is asked for, else the lines."""
        if self.is_json:
            self.result(json.dumps(values))
            return
        for line in lines:
            self.result(line)

    def say(self, text: str) -> None:
        """A message on stderr, unless quiet."""
        if not self.is_quiet:
            _tell(text)

    def error(self, error: object) -> None:
        """An error on stderr, always."""
        _tell(f"error: {printable(_in_words(error))}")

    def show_warning(self, message, category, filename, lineno, file=None, line=None) -> None:
        """A warning as one line on stderr, in place of ``warnings.showwarning``."""
        self.say(f"warning: {printable(message)}")


def _in_words(error):
    """What went wrong; with the file first, and without the name of a parameter in Python."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return str(error).removeprefix("X: ").removeprefix("out: ")


def _tell(text):
    """A line on stderr, if anybody listens: results and the exit code do not depend on it."""
    with contextlib.suppress(OSError):
        _print(text, sys.stderr)


def _print(text, stream):
    """A line on a stream, at once; a process without a console has none."""
    if stream is not None:
        print(_encodable(text, stream), file=stream, flush=True)


def _encodable(text, stream):
    """What of a text a stream can take; the rest as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
