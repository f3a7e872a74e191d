"""Errors that the command line reports in one line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class AsrDeployError(Exception):
    """An error that the user can fix. The message says what is wrong and how to fix it; the command line exits with code 2."""


class DeviceFailed(AsrDeployError):
    """A failure of a device, its connection or its runner. Another attempt may succeed; the command line exits with code 3."""


def first_problem(error: "ValidationError") -> str:
    """Return the first validation problem and its location, without a full stop: ``files.0.bytes: Input should be …``."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"].rstrip("."))))
