"""Stored results: figures of a benchmark with setting, command, date and facts about the machine."""

import os
import platform
import re
import resource
import subprocess
import time
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from benchmarks.catalogue import Setting
from benchmarks.common import REPOSITORY, Figures, Record
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts, usable_cpus
from device_runner.files import write_json

Kind = TypeVar("Kind", bound=Record)
STORED = REPOSITORY / "benchmarks" / "results"
# Sources on which results depend. Results and documents may change without them.
SOURCES = ("toolchain", "exporters", "device_runner", "benchmarks/*.py", "pyproject.toml")
CHANGED = "-changed"


class Machine(Record):
    """Facts about a machine that affect its speed. They do not identify the machine, its user or its folders."""

    cpu: str
    cpu_features: tuple[str, ...]
    int8_exact: bool
    usable_cpus: int  # logical CPUs that our processes may use
    memory_gb: int
    system: str
    python: str
    versions: dict[str, str]


class Stored(Record):
    """Content of a result file."""

    setting: Setting
    command: str
    date: str
    commit: str | None
    machine: Machine
    seconds: float
    other_work: float | None  # average number of cores that other processes used during the run
    figures: Figures


def machine() -> Machine:
    """Return the facts about this machine."""
    facts = machine_facts()
    return Machine(
        **{name: facts[name] for name in ("cpu", "cpu_features", "int8_exact", "python", "versions")},
        usable_cpus=usable_cpus(),
        memory_gb=round(facts["memory_bytes"] / 1e9),
        system=f"{platform.system()} {platform.machine()}",
    )


def commit() -> str | None:
    """Return the commit of the checkout, with the suffix ``CHANGED`` if its sources were modified, or None without git."""
    try:
        return _git("rev-parse", "--short=12", "HEAD") + (CHANGED if _git("status", "--porcelain", "--", *SOURCES) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


class OtherWork:
    """Measure how many cores other processes, except for our children, use from now on (Linux: proc_stat(5))."""

    def __init__(self) -> None:
        self._started, self._busy, self._ours = time.monotonic(), _busy_seconds(), _own_seconds()

    def cores(self) -> float | None:
        """Return the average number of cores, or None if the system does not report it. Our children must have ended."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        return max(0.0, (busy - self._busy - (_own_seconds() - self._ours)) / (time.monotonic() - self._started))


def _busy_seconds() -> float | None:
    try:
        user, nice, system, _, _, irq, softirq, steal = Path("/proc/stat").read_text().split()[1:9]
    except (OSError, ValueError):
        return None
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def path_of(folder: Path, name: str, setting: Setting) -> Path:
    """Return the path of a result file."""
    return folder / f"{name}-{setting}.json"


def write(path: Path, stored: Stored) -> None:
    """Write a result file."""
    write_json(path, stored.model_dump(mode="json"))


def read(path: Path) -> Stored:
    """Read a result file.

    Raises:
        AsrDeployError: If the file cannot be read or is not a result.
    """
    return parsed(Stored, path, "Delete it and run `make bench` again")


def parsed(kind: type[Kind], path: Path, remedy: str) -> Kind:
    """Read a record from a JSON file.

    Args:
        kind: Type of the record.
        path: The file.
        remedy: Sentence for the error message that says how to fix it, without its full stop.

    Raises:
        AsrDeployError: If the file cannot be read or is not a record of this type.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AsrDeployError(f"{path} cannot be read ({error.strerror}). {remedy}.") from error
    except (ValidationError, UnicodeDecodeError) as error:
        reason = re.sub(r"\s+", " ", error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not UTF-8")
        raise AsrDeployError(f"{path} is not a valid benchmark result ({reason}). {remedy}.") from error


def read_folder(folder: Path, setting: Setting) -> dict[str, Stored]:
    """Read the results of a setting in a folder, by the name of the benchmark."""
    ending = f"-{setting}.json"
    return {path.name.removesuffix(ending): read(path) for path in sorted(folder.glob(f"*{ending}"))}
