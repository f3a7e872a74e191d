"""Which artifact a folder holds, so that an export never replaces the artifact of another model unasked."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from device_runner.artifact import MANIFEST, PLAIN_LAYOUT
from device_runner.errors import AsrDeployError
from device_runner.files import shown

# What an artifact was made from, with the words for messages. Versions, length limits and parity may differ.
INPUTS = {
    "model": "another model",
    "weights": "other weights of this model",
    "format": "this model in another format",
    "scheme": "this model with another quantisation scheme",
    "layout": "this model in another layout",
    "codec": "this model from another bitstream",
    "transmitted_bytes": "this model from another bitstream",
}


def input_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a manifest that say what an artifact was made from."""
    return {key: facts.get(key, PLAIN_LAYOUT if key == "layout" else None) for key in INPUTS}


def digest_of_input(facts: Mapping[str, Any]) -> str:
    """Return a hexadecimal digest of what an artifact is made from."""
    return hashlib.sha256(json.dumps(input_of(facts), sort_keys=True).encode()).hexdigest()


def other_artifact(folder: Path, facts: Mapping[str, Any]) -> str | None:
    """Return what the artifact in a folder was made from, in words; None if there is none, or one that was made from the same.

    Args:
        folder: The folder.
        facts: Entries of the manifest of the artifact that is to be written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return "a model that its manifest does not name"
    wanted, there = input_of(facts), input_of(found)
    return next((words for key, words in INPUTS.items() if there[key] != wanted[key]), None)


def check_replaced(folder: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another artifact; see ``other_artifact``.

    Raises:
        AsrDeployError: The folder holds an artifact of another model, or of this model with another scheme, format or bitstream.
    """
    other = other_artifact(folder, facts)
    if other is not None:
        raise AsrDeployError(f"{folder} holds the artifact of {other}. Choose another folder with -o, or use --replace to delete it.")


def check_own_files(folder: Path, places: Collection[Path], names: Collection[str]) -> None:
    """Refuse a folder with artifacts in which there are other files, too: an export replaces the whole folder.

    Args:
        folder: The folder.
        places: Folders in it, or itself, that may hold an artifact.
        names: Names of all files that exports write.

    Raises:
        AsrDeployError: There is a file that no export wrote.
    """
    there = [each for each in places if (each / MANIFEST).is_file()]
    known = {*places, *(place / name for place in (folder, *there) for name in names)}
    for path in sorted(folder.rglob("*")) if there else ():
        if path not in known:
            raise AsrDeployError(
                f"{shown(folder)} holds {shown(path.relative_to(folder))}, which no export wrote and this one would delete. "
                "Move it, or choose another folder with -o."
            )
