"""Exports that tests share: made once, and kept between runs as long as everything that decides them is the same."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from device_runner.facts import machine_facts, package_versions
from tests.helpers import REPOSITORY

FOLDER_VARIABLE = "ASRDEPLOY_TEST_CACHE"
VERSIONS = 3  # of an export that are kept: several checkouts may take turns
# What an export depends on: the code that makes and checks it, the bundled model and the bundled dev-clean.
SOURCES = (
    *("exporters/**/*.py", "device_runner/*.py", "device_runner/bitstream/network.py", "toolchain/models/**/*.py", "toolchain/data/*.py"),
    *("toolchain/scenario/exporting.py", "toolchain/cli/models.py", "toolchain/reports/tables.py"),
    *("toolchain/assets/digits_asr_tiny/*.safetensors", "toolchain/assets/speech/dev-clean/**/*.flac"),
)


def cache_folder() -> Path:
    """Return the folder of exports that are kept between runs; not in the checkout, so that clean clones share it."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asrdeploy-tests"


def content_key(options: object, root: Path = REPOSITORY) -> str:
    """Return what tells an export from every other one: sources, versions, processor and its options."""
    found = hashlib.sha256()
    for path in sorted({each for pattern in SOURCES for each in root.glob(pattern)}):
        found.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes())
    facts = machine_facts()
    machine = {name: facts.get(name) for name in ("cpu", "cpu_features", "int8_exact")}
    found.update(json.dumps([sys.version, package_versions(), machine, options], sort_keys=True, default=str).encode())
    return found.hexdigest()[:24]


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kept(name: str, options: object, make: Callable[[Path], object], copy: Path) -> Path:
    """Copy a folder that ``make`` filled, in this run or an earlier one, to ``copy``.

    It is a copy, so that a test that damages it spoils no other process and no later run.

    Args:
        name: Name of the export. Its latest versions are kept.
        options: What ``make`` depends on besides the sources.
        make: Called with a folder that does not exist yet.
        copy: Folder that does not exist yet.
    """
    root = cache_folder()
    with _locked(root, name):
        folder = root / name / content_key(options)
        if not (folder / "done").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder / "made")
            (folder / "done").touch()
        os.utime(folder)
        for old in sorted(folder.parent.iterdir(), key=lambda each: -each.stat().st_mtime)[VERSIONS:]:
            shutil.rmtree(old)
        shutil.copytree(folder / "made", copy)
    return copy
