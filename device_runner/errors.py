"""The one class of errors that a user can cause and mend, and those of them that a device causes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class AsrDeployError(Exception):
    """A sentence that says what is wrong and what to do; the command line prints it and exits with code 2."""


class DeviceFailed(AsrDeployError):
    """The device, its connection, or what ran on it broke off; the command line exits with code 3: another try may do."""


def first_problem(error: "ValidationError") -> str:
    """Return the first thing that is wrong with a file's content, and where: ``files.0.bytes: Input should be …``, without a full stop."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"].rstrip("."))))
