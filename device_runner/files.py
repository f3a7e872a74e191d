"""Files: reading them whole, atomic writes, file names and content hashes."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runner.errors import AsrDeployError, printable
from device_runner.home import in_home

if TYPE_CHECKING:
    from pydantic import BaseModel


def cache_folder() -> Path:
    """Return the folder for files that can be downloaded or built again: ``ASRDEPLOY_CACHE``, or ~/.cache/asrdeploy.

    Raises:
        AsrDeployError: ``ASRDEPLOY_CACHE`` is not set, and this user has no home folder.
    """
    if named := os.environ.get("ASRDEPLOY_CACHE"):
        return in_home(Path(named))
    try:
        return in_home(Path("~/.cache/asrdeploy"))
    except AsrDeployError as error:
        raise AsrDeployError(
            "There is no folder for downloads: the home folder of this user is not known. Set ASRDEPLOY_CACHE to a folder."
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``. It replaces ``path`` on success and is removed on failure.

    If ``path`` is a link, the file that it leads to is written. Permissions follow the umask.

    Args:
        path: File to write.

    Raises:
        AsrDeployError: If the file or its folder cannot be written.
    """
    if path.is_dir():
        raise AsrDeployError(f"Cannot write {path}: it is a folder. Rename or remove the folder, or choose another path.")
    if path.exists() and not path.is_file():  # a rename by root would replace the device by a file
        raise AsrDeployError(f"Cannot write {path}: it is a device or a pipe, not a file. Choose another path.")
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _unused(target, target.suffix)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o666))
    except (FileExistsError, NotADirectoryError) as error:
        raise AsrDeployError(f"Cannot write {path}: a file lies where its folder would be. Choose another path.") from error
    except OSError as error:
        raise AsrDeployError(f"Cannot write {path}: {error.strerror}.") from error
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise AsrDeployError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, owned: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` on success and is removed on failure.

    If ``folder`` is a link, the folder that it leads to is replaced. Permissions follow the umask.

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
    target = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _unused(target)
        temporary.mkdir()
    except OSError as error:
        raise AsrDeployError(f"Cannot write {folder}: {error.strerror}.") from error
    try:
        yield temporary
        old = temporary.with_name(temporary.name + ".old")
        if target.exists():
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise AsrDeployError(f"Cannot write {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unused(path: Path, suffix: str = "") -> Path:
    """Return a hidden name beside ``path``. ``tempfile`` would create it for its owner alone, whatever the umask says."""
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}{suffix[:20]}")  # 50: names have at most 255 bytes


def is_temporary(path: Path, name: str) -> bool:
    """Return whether a path is one that ``atomic_path`` uses while it writes the file ``name``."""
    return re.fullmatch(re.escape(f".{name[:50]}.") + "[0-9a-f]{8}" + re.escape(Path(name).suffix[:20]), path.name) is not None


def lock(file: int, path: Path, *, wait: bool = True) -> None:
    """Lock an open file or folder against other processes, until it is closed.

    Args:
        file: Its descriptor.
        path: What is locked, for messages.
        wait: Whether to wait until another process releases the lock.

    Raises:
        BlockingIOError: Another process holds the lock, and ``wait`` is false.
        AsrDeployError: The file system has no locks, as some network file systems.
    """
    import fcntl  # missing on Windows, where this module must still be importable

    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise AsrDeployError(
            f"{shown(path)} cannot be locked: {error.strerror}. Choose a folder on a file system with locks, such as a local disk."
        ) from error


@contextmanager
def readable_by_libraries(path: Path) -> Iterator[Path]:
    """Yield a path of an existing file that libraries can open which accept UTF-8 only: the path itself, or a temporary link to it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
            link = Path(folder) / f"file{shown(path.suffix)}"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 atomically. Bytes of file names that are not UTF-8 are escaped, such as ``\\xe9``."""
    with atomic_path(path) as temporary:
        temporary.write_text(re.sub("[\ud800-\udfff]", lambda found: printable(found[0]), text), encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON with a final newline atomically; see ``json_of``."""
    write_text(path, json_of(data) + "\n")


def write_record(path: Path, record: "BaseModel") -> None:
    """Write a pydantic model as indented JSON with a final newline atomically; see ``json_of``."""
    try:
        text = record.model_dump_json(indent=2)
    except ValueError:  # a path with bytes that are not UTF-8, which pydantic cannot write
        text = json_of(record.model_dump(mode="json"))
    write_text(path, text + "\n")


def json_of(data: Any, *, ascii_only: bool = False, indent: int | None = 2) -> str:
    """Return JSON. Bytes of file names that are not UTF-8 become escapes such as ``\\udce9``.

    Python's json reads them as the same file name; see ``os.fsencode``.

    Args:
        data: Plain values.
        ascii_only: Escape all characters that ASCII lacks.
        indent: Columns of an indentation; None for a single line.
    """
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    return text.encode(errors="backslashreplace").decode()


def file_name_of(text: str) -> str:
    """Return ``text`` with every character except letters, digits, ``-``, ``_`` and ``.`` replaced by ``-``."""
    return "".join(each if each.isalnum() or each in "-_." else "-" for each in text)


def unshared(path: Path, digest: str, same: Callable[[Path], bool]) -> Path:
    """Return a default output path that no other input uses.

    Args:
        path: File or folder, named by the last part of its input's path, which several inputs may share.
        digest: Hexadecimal digest of what identifies the input.
        same: Function that returns whether an existing file or folder holds the result of this input.

    Returns:
        ``path`` if it is free or holds a result of the same input, otherwise ``path`` with the first digits of ``digest`` in its name.
    """
    if not path.exists() or same(path):
        return path
    suffix = path.suffix if path.is_file() else ""
    return path.with_name(f"{path.name.removesuffix(suffix)}-{digest[:8]}{suffix}")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(path: Path | str) -> str:
    """Return a path for messages: in one line, with bytes that are not UTF-8 and control characters escaped."""
    return printable(str(path))


def existing(path: Path) -> Path:
    """Return the path of a file whose name may be composed in another way, such as ``é`` as one character or as two.

    macOS and some archives decompose letters with accents (NFD), keyboards compose them (NFC).

    Args:
        path: Path of a file or folder.

    Returns:
        ``path`` if it exists or nothing else matches; otherwise the path with the same characters that exists.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        found = found / part if part.isascii() or os.path.lexists(found / part) else _same_name(found, part)
    return found if os.path.lexists(found) else path


def _same_name(folder: Path, name: str) -> Path:
    """Return the entry of a folder with the same characters as ``name``."""
    composed = unicodedata.normalize("NFC", name)
    try:
        entries = sorted(each.name for each in folder.iterdir())
    except OSError:
        return folder / name
    return folder / next((each for each in entries if unicodedata.normalize("NFC", each) == composed), name)


def file_bytes(path: Path, kind: str = "file", *, largest: int | None = None) -> bytes:
    """Read a file that a user named, in whatever way its name is composed; see ``existing``.

    Args:
        path: File to read.
        kind: What the file should be, for messages, such as ``audio file``.
        largest: Largest accepted size in bytes; None if unlimited.

    Raises:
        AsrDeployError: If there is no such file, it is a folder, a pipe, a socket or a device, it is too large, or it cannot be read.
    """
    try:
        path = existing(path)
        found = path.stat()
        what = _not_a_file(found.st_mode)
        if what == "folder":
            raise AsrDeployError(f"{shown(path)} is a folder; give {_article(kind)}.")
        if what is not None:  # reading a pipe may wait forever
            raise AsrDeployError(f"{shown(path)} is a {what}, not a file; save its content to a file and give that.")
        if largest is not None and found.st_size > largest:
            raise AsrDeployError(f"{shown(path)} has {found.st_size} bytes, but a {kind} has at most {largest}; check the path.")
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as error:
        raise _unreadable(path, kind, error) from error


def is_file(path: Path) -> bool:
    """Return whether a path that a file names leads to a file. A name that is too long for a file leads to none."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _not_a_file(mode: int) -> str | None:
    """Return what something is that is not a regular file."""
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode))


def _unreadable(path: Path, kind: str, error: OSError | ValueError | MemoryError) -> AsrDeployError:
    """Return the reason why a file cannot be read."""
    name = shown(path)
    if isinstance(error, MemoryError):
        return AsrDeployError(f"{name} is too large for the memory of this machine; split it.")
    code = error.errno if isinstance(error, OSError) else errno.EINVAL  # ValueError: the name contains a null character
    if code == errno.ENOENT and path.is_symlink():
        return AsrDeployError(f"{name} is a link to {shown(path.readlink())}, which does not exist; copy the {kind} itself.")
    if code in (errno.ENOENT, errno.ENOTDIR):
        return AsrDeployError(f"There is no {kind} {name}; check the path.")
    if code == errno.ELOOP:
        return AsrDeployError(f"{name} is a link that leads back to itself; give the {kind} itself.")
    if code == errno.ENAMETOOLONG:
        return AsrDeployError(f"{name} is too long for a file name; check the path.")
    if code in (errno.EACCES, errno.EPERM):
        return AsrDeployError(f"{name} cannot be read: you have no permission; change the permissions of the file or its folder.")
    return AsrDeployError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}; check the path and the disk.")
