"""Resumable downloads of large files over HTTP, and safe unpacking of archives."""

import errno
import gzip
import http.client
import lzma
import os
import shutil
import ssl
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from rich import filesize
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn

from device_runner.bitstream.receiver import PASSING_STATUS, RETRY_PAUSES, SOCKET_TIMEOUT
from device_runner.errors import AsrDeployError
from device_runner.files import lock, sha256_of
from device_runner.terminal import PlainConsole, plain_column

CHUNK = 1 << 18  # bytes
UNPACKED_PER_BYTE, SMALL = 100, 1 << 26  # a data set may unpack to 100 times its archive, and a small one to 64 MiB
UNPACKING = ".unpacking-"  # prefix of the temporary folders that archives are unpacked into


class _CutConnection(Exception):
    """The body ended before the announced length."""


class _CannotResume(Exception):
    """The partial file is not the start of the file on the server."""


# urllib instead of pooch, because pooch cannot resume a download.
def download(url: str, path: Path, *, sha256: str | None, progress: bool = True) -> Path:
    """Download ``url`` to ``path`` unless a file with the expected checksum is already there.

    The bytes are collected in ``path`` + ``.part``. An interrupted download keeps this file, and the next one resumes from it. If several
    processes request the same file, one downloads it and the others wait.

    Args:
        url: HTTP or HTTPS address.
        path: File to write; its folder is created.
        sha256: Expected SHA-256 of the whole file in hexadecimal. None checks the length only and trusts an existing ``.part`` file.
        progress: Whether to show bytes, speed and remaining time on standard error.

    Returns:
        ``path``.

    Raises:
        AsrDeployError: The address is invalid, the server or the connection fails permanently, the content is not the expected one,
            or the file cannot be written.
    """
    _host(url)
    if path.is_dir():
        raise AsrDeployError(f"Cannot download to {path}, because it is a folder: give the name of a file.")
    if path.is_file() and _fits(path, sha256):
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(part, path.name, progress):
            if not (path.is_file() and _fits(path, sha256)):  # another process may have finished it
                _complete(url, part, path, sha256, progress)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


@contextmanager
def _held(part: Path, name: str, said: bool) -> Iterator[None]:
    """Lock ``part`` against other processes, creating it if needed; ``said`` reports the wait. An empty file is removed at the end."""
    while True:
        with part.open("ab") as file:
            try:
                lock(file.fileno(), part.parent, wait=False)
            except BlockingIOError:
                if said:
                    PlainConsole(stderr=True).print(f"Waiting for another process that is downloading {name}.")
                lock(file.fileno(), part.parent)
            if not _is_at(file, part):  # the other process has renamed or removed the file
                continue
            try:
                yield
            finally:
                if _is_at(file, part) and not _size(part):
                    part.unlink()
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Return whether an open file is the one that currently has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _complete(url: str, part: Path, path: Path, sha256: str | None, progress: bool) -> None:
    """Download the rest of ``part``, check it and rename it to ``path``."""
    # A download may have been stopped after its last byte; HTTP does not allow a request for the rest of a complete file.
    if not (sha256 and _fits(part, sha256)):
        with _progress(progress) as bars:
            _fetch(url, part, path, bars, bars.add_task(path.name, total=None))
    if not _fits(part, sha256):
        found = sha256_of(part)
        part.unlink()
        raise AsrDeployError(
            f"{_host(url)} sent a {path.name} that is not the expected file (SHA-256 {found[:12]}…, expected {(sha256 or '')[:12]}…): "
            f"download it again, or place the right file at {path} by hand."
        )
    part.replace(path)


def _host(url: str) -> str:
    """Return the host of an http or https address."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.hostname
    except ValueError:
        pass
    raise _no_address(url)


def _no_address(url: str) -> AsrDeployError:
    return AsrDeployError(f"Cannot download from “{url}”: give a valid address that starts with http:// or https:// and contains a host.")


def _fits(path: Path, sha256: str | None) -> bool:
    return sha256 is None or sha256_of(path) == sha256.lower()


def _cannot_write(path: Path, error: OSError) -> AsrDeployError:
    return AsrDeployError(f"Cannot write {path} ({error.strerror or error}): free disk space, or choose another folder.")


def _progress(shown: bool) -> Progress:
    columns = (plain_column("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=PlainConsole(stderr=True), disable=not shown)


def _fetch(url: str, part: Path, path: Path, bars: Progress, task: TaskID) -> None:
    """Request the rest of ``part`` repeatedly until the file is complete; ``path`` is for messages."""
    failures = 0
    most = _size(part)
    may_start_anew = True
    while True:
        try:
            return _receive(url, part, bars, task)
        except _CannotResume as error:
            os.truncate(part, 0)  # not removed, because this file carries the lock
            if not may_start_anew:
                raise _given_up(url, path, "its partial answers do not fit together") from error
            may_start_anew = False
            most = 0
            continue
        except (ValueError, http.client.InvalidURL) as error:
            raise _no_address(url) from error
        except (OSError, http.client.HTTPException, _CutConnection) as error:
            # Only growth beyond the longest part so far counts: otherwise a server that cannot resume and always cuts would loop forever.
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            final = (isinstance(error, urllib.error.HTTPError) and error.code not in PASSING_STATUS) or _is_untrusted(error)
            if final or failures > len(RETRY_PAUSES):
                raise _given_up(url, path, _reason(error)) from error
            time.sleep(RETRY_PAUSES[failures - 1])


def _is_untrusted(error: Exception) -> bool:
    """Return whether the certificate of a server, or of the network's proxy, is unknown here. Another attempt will not change that."""
    return isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError)


def _reason(error: Exception) -> str:
    """Return the reason as the server or the operating system states it."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason} for {urlsplit(error.url).path}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}; SSL_CERT_FILE names the certificates of your network"
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__


def _given_up(url: str, path: Path, reason: str) -> AsrDeployError:
    return AsrDeployError(
        f"Cannot download {path.name} from {_host(url)} ({reason.rstrip('.')}): check the connection, or place the file at {path} by hand."
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(url: str, part: Path, bars: Progress, task: TaskID) -> None:
    """Send one request for the rest of ``part`` and append the answer.

    Raises:
        _CannotResume: ``part`` must be emptied first.
        _CutConnection, OSError, http.client.HTTPException: The connection failed; the bytes received so far are in ``part``.
        AsrDeployError: ``part`` cannot be written, or the disk is too small for it.
    """
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=SOCKET_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            raise _CannotResume from error
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server ignores ranges and sends the whole file
        total = _announced(response, have)
        _check_space(part, total)
        bars.reset(task, total=total, completed=have)
        try:
            file = part.open("ab" if have else "wb")
        except OSError as error:
            raise _cannot_write(part, error) from error
        with file:
            while chunk := response.read(CHUNK):
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise _cannot_write(part, error) from error
                bars.advance(task, len(chunk))
    if total is not None and _size(part) < total:
        raise _CutConnection(f"the connection was cut after {_size(part)} of {total} bytes")


def _check_space(part: Path, total: int | None) -> None:
    """Raise AsrDeployError if the file system has no space for the rest of a file of ``total`` bytes."""
    lacking, free = (total or 0) - _size(part), shutil.disk_usage(part.parent).free
    if lacking > free:
        raise AsrDeployError(
            f"{part.stem} requires another {filesize.decimal(lacking)}, but {part.parent} has only {filesize.decimal(free)} left: "
            "free disk space, or choose another folder."
        )


def _announced(response: http.client.HTTPResponse, have: int) -> int | None:
    """Return the length of the whole file in bytes as announced by the response headers, or None.

    Raises:
        _CannotResume: The partial answer does not start where our file ends.
    """
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        # Without a length, only the checksum can tell a cut body from a complete one.
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    # For example: bytes 100-199/200, or bytes 100-199/* if the server does not know the whole length.
    extent, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first, _, last = extent.partition("-")
    if first != str(have) or not last.isdecimal():
        raise _CannotResume
    return int(whole) if whole.isdecimal() else int(last) + 1


def unpack_tar(archive: Path, folder: Path, *, unless: Path | None = None) -> None:
    """Unpack a tar archive, compressed or not, into ``folder``. Existing folders are merged, existing files replaced.

    The archive is unpacked into a temporary folder and moved after it has been read completely, so a damaged archive or a killed process
    changes nothing. Only plain files and folders are accepted: data sets contain no links, and links allow archives to write outside the
    folder. Several processes take turns.

    Args:
        archive: Path of the archive.
        folder: Target folder; it is created if needed.
        unless: Path that makes unpacking unnecessary if it exists. Another process may create it while this one waits.

    Raises:
        AsrDeployError: The archive is missing or damaged, contains links, devices, sparse files or members outside ``folder``,
            unpacks to far more than its size, or ``folder`` cannot be written.
    """
    if not archive.is_file():
        raise AsrDeployError(f"Archive {archive} does not exist. Check the path.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the folder, because moving must be renaming within one file system.
        with _workplace(folder) as temporary:
            if unless is not None and unless.exists():
                return
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter=_Bounded(archive))
                # tarfile stops at the end mark, but compressed formats store their checksum after it: read to the end to check it.
                while tar.fileobj is not None and tar.fileobj.read(CHUNK):
                    pass
            _move_into(temporary, folder)
    except tarfile.FilterError as error:
        raise AsrDeployError(f"{archive} is not safe to unpack ({error}): download it again from its publisher.") from error
    # ValueError, OverflowError: numbers and names in headers that tarfile does not check.
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, ValueError, OverflowError) as error:
        raise AsrDeployError(f"{archive} is damaged or not a tar archive ({error}): remove it and download it again.") from error
    except OSError as error:
        raise _cannot_write(folder, error) from error


class _Bounded:
    """Refuse links, sparse files and archives that unpack to far more than their size, in addition to what tarfile's own filter refuses."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._most = UNPACKED_PER_BYTE * archive.stat().st_size + SMALL
        self._total = 0

    def __call__(self, member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo:
        if not (member.isfile() or member.isdir()) or member.issparse():
            raise tarfile.SpecialFileError(member)
        self._total += member.size
        if self._total > self._most:
            raise AsrDeployError(
                f"{self._archive} is not safe to unpack: its files have more than {self._most} bytes. Download it again from its publisher."
            )
        return tarfile.data_filter(member, destination)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """Lock ``folder``, remove what killed processes left in it, and yield a temporary folder in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, folder)
        for left in folder.glob(f"{UNPACKING}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=UNPACKING, dir=folder, ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
    finally:
        os.close(descriptor)


def _move_into(source: Path, target: Path) -> None:
    """Move the content of ``source`` into ``target``; entries that are new there are moved by a single rename."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if place.is_dir():
            _move_into(entry, place)
        else:
            _rename(entry, place)


def _rename(entry: Path, place: Path) -> None:
    try:
        entry.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The target links into another file system: copy to a temporary name first, so that a partial copy is never used.
        with _workplace(place.parent) as temporary:
            shutil.move(entry, temporary)
            (temporary / entry.name).rename(place)
