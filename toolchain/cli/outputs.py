"""Output folders: a default folder is never shared by different inputs, and the result of another input is never overwritten unasked."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from device_runner.errors import AsrDeployError
from device_runner.files import shown, unshared, write_json

INPUTS = "inputs.json"  # in the folder: what its result was made from


def output_folder(given: Path | None, plain: Path, inputs: Iterable[str], *, replace: bool = False) -> Path:
    """Return the output folder of a command; ``record_inputs`` marks it when the command begins.

    Further inputs may be added to those of an earlier result, which the new result then contains.

    Args:
        given: Value of ``-o``; None for a default.
        plain: Default folder. If it holds the result of other inputs, a digest of the inputs is appended to its name.
        inputs: What the result is made from: digests or paths.
        replace: Value of ``--replace``: take a given folder even if it holds the result of other inputs.

    Raises:
        AsrDeployError: The given folder holds the result of other inputs.
    """
    wanted = sorted(set(inputs))
    if given is None:
        digest = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
        return unshared(plain, digest, lambda folder: _within(folder, wanted) is True or _empty(folder))
    if not replace and _within(given, wanted) is False:
        raise AsrDeployError(
            f"{shown(given)} holds the result of other inputs. Choose another folder with -o, or use --replace to overwrite it."
        )
    return given


def record_inputs(folder: Path, inputs: Iterable[str]) -> None:
    """Record in a folder what its result is made from.

    Raises:
        AsrDeployError: The folder cannot be written.
    """
    write_json(folder / INPUTS, {"version": 1, "inputs": sorted(set(inputs))})


def digests_of_paths(paths: Iterable[Path]) -> list[str]:
    """Return a digest of the place of each path, whatever the current folder is and through whichever links it is named."""
    return [hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest() for path in paths]


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _within(folder: Path, wanted: list[str]) -> bool | None:
    """Tell whether the result in a folder was made from some of the wanted inputs; None if that is not recorded."""
    try:
        found = json.loads((folder / INPUTS).read_bytes())["inputs"]
        return set(found) <= set(wanted)
    except OSError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
