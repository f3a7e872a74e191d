"""What a reader of files is to the fuzzer: valid files, how they are changed, and the function of the product that reads them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from scripts.fuzz.mutations import json_bytes, mutated_bytes, mutated_lines, mutated_toml, mutated_value

Case = dict[str, bytes]  # content of files by their path in a folder
Change = Callable[[Random, bytes], bytes]
MEGABYTE = 2**20


@dataclass(frozen=True)
class Reader:
    """A reader of files that others make.

    Args:
        name: Name on the command line.
        what: What is read, for the list of readers.
        valid: Returns valid cases; gets an empty folder for its own use.
        change: Returns a changed case.
        read: Reads the case in a folder with the product, whose errors must be ``AsrDeployError``.
        memory: Largest growth of the resident memory by one case, in bytes.
        seconds: Largest processor time of one case.
        examples: Number of cases in the tests.
    """

    name: str
    what: str
    valid: Callable[[Path], Sequence[Case]]
    change: Callable[[Random, Case], Case]
    read: Callable[[Path], object]
    memory: int = 256 * MEGABYTE  # parsers of JSON take up to 130 times the size of a text
    seconds: int = 20
    examples: int = 100


def write(case: Case, folder: Path) -> None:
    """Write a case into a folder, and remove what an earlier case left there."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif str(path.relative_to(folder)) not in case:
            path.unlink()
    for name, content in case.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def changes(how: Mapping[str, Change]) -> Callable[[Random, Case], Case]:
    """Return a change of a case that changes one of its files, or removes it now and then.

    Args:
        how: Change of a file's bytes, by the ending of its path.
    """

    def change(rng: Random, case: Case) -> Case:
        names = [name for name in case if name.endswith(tuple(how))]
        changed = dict(case)
        for name in rng.sample(names, rng.choice((1, 1, 1, min(2, len(names))))):
            if len(case) > 1 and rng.random() < 0.02:
                del changed[name]
                continue
            changed[name] = next(each for ending, each in how.items() if name.endswith(ending))(rng, case[name])
        return changed

    return change


def change_json(rng: Random, data: bytes) -> bytes:
    """Change a JSON file: its values most of the time, its bytes now and then."""
    if rng.random() < 0.1:
        return mutated_bytes(rng, data)
    return change_json_line(rng, data)


def change_json_line(rng: Random, line: bytes) -> bytes:
    """Change the values of JSON on one line."""
    try:
        return json_bytes(rng, mutated_value(rng, json.loads(line))).replace(b"\n", b" ")
    except (ValueError, RecursionError):  # an earlier change has left no JSON, or a deep tree
        return mutated_bytes(rng, line)


def change_json_lines(rng: Random, data: bytes) -> bytes:
    """Change a file of JSON lines."""
    return mutated_lines(rng, data, change_json_line)


def change_text_lines(rng: Random, data: bytes) -> bytes:
    """Change a text file of lines."""
    return mutated_lines(rng, data, mutated_bytes)


def change_toml(rng: Random, data: bytes) -> bytes:
    """Change a TOML file."""
    return mutated_toml(rng, data.decode())


def as_json(value: Any) -> bytes:
    """Return a value as a JSON file."""
    return json.dumps(value, indent=1).encode()
