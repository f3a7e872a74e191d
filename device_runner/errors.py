"""Errors and warnings that the command line reports in one line."""

import logging
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # categories of Unicode: control characters, surrogates, separators of lines and of paragraphs
LONGEST_MESSAGE = 1_500  # characters; a file may contain a text of megabytes where a name belongs
logger = logging.getLogger("asrdeploy")


class AsrDeployError(Exception):
    """An error that the user can fix. The message says what is wrong and how to fix it; the command line exits with code 2.

    Messages quote what files contain. Whatever that is, ``str(error)`` is one printable line of at most ``LONGEST_MESSAGE`` characters.
    """

    def __str__(self) -> str:
        return _shortened(printable(_shortened(super().__str__())))


class DeviceFailed(AsrDeployError):
    """A failure of a device, its connection or its runner. Another attempt may succeed; the command line exits with code 3."""


@lru_cache(maxsize=1024)
def say_once(sentence: str) -> None:
    """Warn on the logger ``asrdeploy``, once in a process: one command may load a model or evaluate a test set several times."""
    logger.warning(sentence)


def first_problem(error: "ValidationError") -> str:
    """Return the first validation problem and its location, without a full stop: ``files.0.bytes: Input should be …``."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]  # a list of them all: as small as possible
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"].rstrip("."))))


def printable(text: str) -> str:
    """Return a text in one line, with control characters and bytes that are not UTF-8 escaped."""
    return "".join(_escaped(each) if unicodedata.category(each) in HIDDEN else each for each in text)


def _shortened(text: str) -> str:
    """Leave out the middle of a long text: what is wrong comes first, and what to do comes last."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 501]}…{text[-500:]}"


def _escaped(character: str) -> str:
    code = ord(character)  # Python decodes a byte that is not UTF-8 to a surrogate
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
