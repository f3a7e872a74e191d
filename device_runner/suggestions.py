"""Error for an unknown name, with a suggestion."""

import difflib
from collections.abc import Iterable

from device_runner.errors import AsrDeployError


def nearest(name: str, known: Iterable[str], what: str) -> AsrDeployError:
    """Return the error for an unknown name, which suggests the most similar known name.

    Args:
        name: Unknown name.
        known: Known names.
        what: What the name stands for, such as ``device``.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), [each.lower() for each in known], n=1, cutoff=0.0)
    match = next(each for each in known if each.lower() == close[0]) if close else None
    hint = f" Did you mean {match}?" if match else ""
    return AsrDeployError(f"Unknown {what} “{name}”.{hint} Known: {', '.join(known)}.")
