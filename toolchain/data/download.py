"""Fetching large files over HTTP so that a cut connection costs nothing, and unpacking archives safely."""

import errno
import gzip
import http.client
import lzma
import os
import shutil
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
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from device_runner.bitstream.receiver import PASSING_STATUS, RETRY_PAUSES, SOCKET_TIMEOUT
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of

CHUNK = 1 << 18  # bytes
UNPACKING = ".unpacking-"  # how the names of folders begin that archives are unpacked into


class _CutConnection(Exception):
    """The body ended before the announced length."""


class _CannotResume(Exception):
    """The part that is here is no start of what the server has."""


# By urllib and not by pooch, which does not resume.
def download(url: str, path: Path, *, sha256: str | None, progress: bool = True) -> Path:
    """Fetch ``url`` into ``path`` and return ``path``; what is there already and fits ``sha256`` is not fetched again.

    The bytes collect in ``path`` + ``.part``, which an interrupted download leaves behind and the next one continues. Of several
    processes that want the same file one fetches it and the others wait.

    Args:
        url: an http or https address.
        path: the file to make; its folder is made too.
        sha256: of the whole file in hexadecimal; None trusts the length alone, and a ``.part`` to be a start of this file.
        progress: show bytes, speed and time left on the standard error.

    Raises:
        AsrDeployError: the address is not usable, the server or the connection fails for good, the content is not the expected
            one, or the file cannot be written.
    """
    _host(url)
    if path.is_dir():
        raise AsrDeployError(f"Cannot download to {path}, which is a folder; give the name of a file.")
    if path.is_file() and _fits(path, sha256):
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(part, path.name, progress):
            if not (path.is_file() and _fits(path, sha256)):  # another process may have been quicker
                _complete(url, part, path, sha256, progress)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


@contextmanager
def _held(part: Path, name: str, said: bool) -> Iterator[None]:
    """Hold ``part``, made where there is none, against other processes, which wait; ``said``: on the standard error. An empty one goes."""
    import fcntl  # not on Windows, where this module is imported too

    while True:
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if said:
                    Console(stderr=True, highlight=False, soft_wrap=True).print(f"Another process downloads {name}: waiting.", markup=False)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, part):  # who had it has given it its final name, or thrown it away
                continue
            try:
                yield
            finally:
                if _is_at(file, part) and not _size(part):
                    part.unlink()
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Tell whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _complete(url: str, part: Path, path: Path, sha256: str | None, progress: bool) -> None:
    """Fetch what ``part`` lacks, check it and give it its name."""
    # A download may have been stopped after its last byte; asking for the rest of a whole file is an error in HTTP.
    if not (sha256 and _fits(part, sha256)):
        with _progress(progress) as bars:
            _fetch(url, part, path, bars, bars.add_task(path.name, total=None))
    if not _fits(part, sha256):
        found = sha256_of(part)
        part.unlink()
        raise AsrDeployError(
            f"What {_host(url)} sent for {path.name} is not the expected file (SHA-256 {found[:12]}…, expected {(sha256 or '')[:12]}…): "
            f"download again, or place the right file at {path} by hand."
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
    return AsrDeployError(f"Cannot download from “{url}”: give a valid address that starts with http:// or https:// and names a host.")


def _fits(path: Path, sha256: str | None) -> bool:
    return sha256 is None or sha256_of(path) == sha256.lower()


def _cannot_write(path: Path, error: OSError) -> AsrDeployError:
    return AsrDeployError(f"Cannot write {path} ({error.strerror or error}): free space or choose another folder.")


def _progress(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


def _fetch(url: str, part: Path, path: Path, bars: Progress, task: TaskID) -> None:
    """Fill ``part``, attempt after attempt, until the whole body is there; ``path`` is for the messages."""
    failures = 0
    most = _size(part)
    may_start_anew = True
    while True:
        try:
            return _receive(url, part, bars, task)
        except _CannotResume as error:
            os.truncate(part, 0)  # and not removed: it is held by its being this file
            if not may_start_anew:
                raise _given_up(url, path, "it sends parts that do not fit together") from error
            may_start_anew = False
            most = 0
            continue
        except (ValueError, http.client.InvalidURL) as error:
            raise _no_address(url) from error
        except (OSError, http.client.HTTPException, _CutConnection) as error:
            # Growth beyond anything before, not just new bytes: a server that cannot resume and always cuts at half would never end.
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            final = isinstance(error, urllib.error.HTTPError) and error.code not in PASSING_STATUS
            if final or failures > len(RETRY_PAUSES):
                raise _given_up(url, path, _reason(error)) from error
            time.sleep(RETRY_PAUSES[failures - 1])


def _reason(error: Exception) -> str:
    """Return what went wrong in the words of the server or the system."""
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code} {error.reason} for {urlsplit(error.url).path}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__


def _given_up(url: str, path: Path, reason: str) -> AsrDeployError:
    return AsrDeployError(
        f"Cannot download {path.name} from {_host(url)} ({reason.rstrip('.')}): check the connection, or place the file at {path} by hand."
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(url: str, part: Path, bars: Progress, task: TaskID) -> None:
    """Make one request for what ``part`` lacks and append what comes.

    Raises:
        _CannotResume: ``part`` has to go first.
        _CutConnection, OSError, http.client.HTTPException: the connection failed; what came before is in ``part``.
        AsrDeployError: ``part`` cannot be written, or there is no room for it.
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
            have = 0  # the server ignores ranges: this is the whole file from its start
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
    """Raise AsrDeployError where the file system has no room for the rest of a file of ``total`` bytes."""
    lacking, free = (total or 0) - _size(part), shutil.disk_usage(part.parent).free
    if lacking > free:
        raise AsrDeployError(
            f"{part.stem} takes another {filesize.decimal(lacking)} and {part.parent} has {filesize.decimal(free)} left: "
            "free space or choose another folder."
        )


def _announced(response: http.client.HTTPResponse, have: int) -> int | None:
    """Return the length of the whole file in bytes as the answer's head announces it; None where it does not.

    Raises:
        _CannotResume: the answer is a part that does not start where ours ends.
    """
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        # Without a usable length a cut body cannot be told from a whole one; the checksum has to.
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    # For example: bytes 100-199/200, or bytes 100-199/* where the server does not know the whole.
    extent, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first, _, last = extent.partition("-")
    if first != str(have) or not last.isdecimal():
        raise _CannotResume
    return int(whole) if whole.isdecimal() else int(last) + 1


def unpack_tar(archive: Path, folder: Path, *, unless: Path | None = None) -> None:
    """Unpack a tar archive, compressed or not, into ``folder``; folders that are there are merged, files replaced.

    Everything is unpacked into a temporary folder first and moved once the whole archive has been read, so a damaged archive
    changes nothing, and nor does a process that is killed. Only plain files and folders are taken: data sets have no links, and links
    are how archives escape. Several processes take turns.

    Args:
        archive: the file.
        folder: is made where there is none.
        unless: a path that makes unpacking needless once it is there; another process may make it while this one waits for its turn.

    Raises:
        AsrDeployError: the archive is missing, damaged, or has members that are links, devices or lie outside ``folder``; or
            ``folder`` cannot be written.
    """
    if not archive.is_file():
        raise AsrDeployError(f"There is no archive {archive}; check the path.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the folder, which may be a file system of its own: moving has to be renaming.
        with _workplace(folder) as temporary:
            if unless is not None and unless.exists():
                return
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter=_plain_member)
                # tarfile stops at its end mark, but gzip and the like hold their checksum behind it: read on to have it checked.
                while tar.fileobj is not None and tar.fileobj.read(CHUNK):
                    pass
            _move_into(temporary, folder)
    except tarfile.FilterError as error:
        raise AsrDeployError(f"{archive} is not safe to unpack ({error}): get the archive from its publisher again.") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise AsrDeployError(f"{archive} is damaged or no tar archive ({error}): remove it and download it again.") from error
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _plain_member(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo:
    """Refuse links beside what tarfile's own filter refuses."""
    if not (member.isfile() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, destination)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder in ``folder``, which is held against other processes meanwhile; what killed ones left is removed."""
    import fcntl  # not on Windows, where this module is imported too

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in folder.glob(f"{UNPACKING}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=UNPACKING, dir=folder, ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
    finally:
        os.close(descriptor)


def _move_into(source: Path, target: Path) -> None:
    """Move what is in the folder ``source`` into ``target``; what is not there yet comes whole, by one rename."""
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
        # A folder on the way is a link into another file system; a copy that is stopped must not be taken for the whole.
        with _workplace(place.parent) as temporary:
            shutil.move(entry, temporary)
            (temporary / entry.name).rename(place)
