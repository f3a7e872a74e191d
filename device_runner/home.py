"""Home folders in paths: a leading ``~/`` or ``~user/``, which shells leave in ``--output=~/x``, in quotes and in files."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from pydantic import AfterValidator

from device_runner.errors import AsrDeployError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Text = TypeVar("Text", bound=str | Path)


def in_home(path: Text) -> Text:
    """Return a path or a text that may be one, with a leading ``~/`` or ``~user/`` replaced by that home folder.

    ``~`` alone is the home folder too. Everything else is returned unchanged: names of models, ``file~``, ``~draft.wav``.

    Args:
        path: Path, or a text that may be a path.

    Raises:
        AsrDeployError: There is no such user, or the home folder is not known.
    """
    text = str(path)
    first, separator, _ = text.partition("/")
    if not first.startswith("~") or not (separator or first == "~"):
        return path
    expanded = os.path.expanduser(text)  # noqa: PTH111  (pathlib would normalise texts that are no paths)
    if not expanded.startswith("~"):
        return type(path)(expanded)
    if first == "~":
        raise AsrDeployError(f"{text}: the home folder of this user is not known. Set HOME, or give the path without ~.")
    if Path(first).exists():  # a folder whose name begins with ~
        return path
    raise AsrDeployError(f"{text}: there is no user {first[1:]}. Check the name, or give the path without ~.")


NameOrPath = Annotated[str, AfterValidator(in_home)]  # a field of a file that users write


def finds_home(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return the function with ``in_home`` applied to its arguments: texts, paths, and lists and tuples of them."""

    @wraps(function)
    def called(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return function(*map(_found, args), **{name: _found(value) for name, value in kwargs.items()})

    return called


def _found(value: Any) -> Any:
    if isinstance(value, str | Path):
        return in_home(value)
    if type(value) in (list, tuple):
        return type(value)(map(_found, value))
    return value
