"""Atomic writes, file names and content hashes."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runner.errors import AsrDeployError

if TYPE_CHECKING:
    from pydantic import BaseModel


def cache_folder() -> Path:
    """Return the folder for files that can be downloaded or built again: ``ASRDEPLOY_CACHE``, or ~/.cache/asrdeploy."""
    return Path(os.environ.get("ASRDEPLOY_CACHE") or "~/.cache/asrdeploy").expanduser()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``. It replaces ``path`` on success and is removed on failure.

    Args:
        path: File to write.

    Raises:
        AsrDeployError: If the file or its folder cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a rename by root would replace the device by a file
        raise AsrDeployError(f"Cannot write {path}: it is a device or a pipe, not a file. Choose another path.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise AsrDeployError(f"Cannot write {path}: {error.strerror}.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp creates files that only their owner can read
        temporary.replace(path)
    except OSError as error:
        raise AsrDeployError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, owned: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` on success and is removed on failure.

    Args:
        folder: Folder to create or replace.
        owned: Function that returns whether an existing, non-empty folder was written by asrdeploy and may be replaced.

    Raises:
        AsrDeployError: If ``folder`` exists and may not be replaced, or cannot be written.
    """
    if folder.exists() and folder.resolve() == Path.cwd():
        raise AsrDeployError(f"{folder} is the current folder. Choose another folder for the output.")
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or owned(folder))):
        raise AsrDeployError(f"{folder} exists and was not created by asrdeploy. Choose another folder, or delete it.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise AsrDeployError(f"Cannot write {folder}: {error.strerror}.") from error
    try:
        temporary.chmod(0o755)
        yield temporary
        old = temporary.with_name(temporary.name + ".old")
        if folder.exists():
            folder.rename(old)
        try:
            temporary.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise AsrDeployError(f"Cannot write {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON with a final newline atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_record(path: Path, record: "BaseModel") -> None:
    """Write a pydantic model as indented JSON with a final newline atomically."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def file_name_of(text: str) -> str:
    """Return ``text`` with every character except letters, digits, ``-``, ``_`` and ``.`` replaced by ``-``."""
    return "".join(each if each.isalnum() or each in "-_." else "-" for each in text)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
