"""Output on a terminal or into a pipe: names are shown as they are, whatever characters they contain.

Rich interprets ``[red]`` and ``:smile:`` in texts unless it is told not to. Everything that asrdeploy shows with rich goes through this
module, so that names of files, models and utterances, and transcripts, are never interpreted.
"""

import codecs
import io
import os
import sys
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.progress import TextColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from device_runner.errors import AsrDeployError, printable

ESCAPED = "asrdeploy-escaped"  # how streams write what their encoding lacks


class PlainConsole(Console):
    """A console that interprets no text: neither markup nor emoji codes; its sentences are not broken into lines.

    Args:
        stderr: Print to standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; see ``rich.console.Console.print``. A text stays on its line, so that paths can be copied."""
        if all(isinstance(each, str) for each in objects):
            options.setdefault("soft_wrap", True)
        for table in (each for each in objects if isinstance(each, Table)):
            for column in table.columns:
                column.overflow = "fold"  # a long name continues on the next line instead of ending in "…"
        super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Go on without output after its reader has gone, as ``head`` does: results are still written to their files."""
        self.quiet = True
        _drop(self.file)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Show a status; see ``rich.console.Console.status``."""
        return _PlainStatus(_plain(status), console=self, **options)


class _PlainStatus(Status):
    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(None if status is None else _plain(status), **options)


def _plain(shown: RenderableType) -> RenderableType:
    return Text(shown) if isinstance(shown, str) else shown  # a spinner interprets str


def plain_column(text_format: str) -> TextColumn:
    """Return a column of a progress bar that shows its text as it is, such as ``{task.description}``."""
    return TextColumn(text_format, markup=False)


def escape_output() -> None:
    """Let standard output and standard error escape what their encoding lacks, such as ``\\xe9`` for a byte that is not UTF-8.

    Python decodes such bytes of file names to surrogates, which no encoding has; printing one would raise UnicodeEncodeError.
    """
    codecs.register_error(ESCAPED, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return printable(lacking).encode("ascii", "backslashreplace").decode(), error.end


def check_current_folder() -> None:
    """Raise AsrDeployError if the current folder was deleted: no relative path has a meaning then."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as error:
        raise AsrDeployError("The current folder was deleted. Change to an existing folder.") from error
    except OSError as error:
        raise AsrDeployError(f"The current folder cannot be read: {error.strerror}. Change to another folder.") from error


def flush_output() -> None:
    """Write out standard output and standard error. What a reader that has gone, such as ``head``, does not take is dropped.

    Raises:
        OSError: The output cannot be written, because the disk is full.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:  # the shell closed it: >&-
            continue
        try:
            stream.flush()
        except OSError as error:
            _drop(stream)
            if not isinstance(error, BrokenPipeError):
                raise


def _drop(stream: IO[str]) -> None:
    """Let what is written to a stream vanish; Python flushes it again when it exits."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
