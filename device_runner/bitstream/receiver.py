"""Receive a file over HTTP: read it while it arrives, store it, and resume after a lost connection.

This module uses urllib and a thread, because HTTP clients retry requests but do not resume within a body.
"""

import base64
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from device_runner.errors import AsrDeployError

SOCKET_TIMEOUT = 30.0  # seconds without data
RETRY_PAUSES = (0.2, 1.0, 3.0)  # seconds before each retry; the count restarts whenever data arrives
PASSING_STATUS = (408, 429, 500, 502, 503, 504)  # HTTP statuses that are worth a retry
LONGEST = 2**32  # bytes; more than any model for a phone has
SMALLEST_READ, LARGEST_READ = 1 << 10, 1 << 18  # bytes
READS_PER_SECOND = 50  # with a limited rate; short waits keep the rate even
CATCH_UP = 0.1  # seconds; the longest delay that a limited rate makes up for


@dataclass(frozen=True)
class Offer:
    """What a server announces about a file: its length in bytes, an identifier of its version, and its SHA-256 if available."""

    length: int
    version: str
    sha256: str | None


class _Cut(Exception):
    """The connection ended early."""


class Receiver:
    """Receives a file in a separate thread. ``read`` returns what has arrived and waits for more.

    The data is stored in a hidden file in the folder of ``path``, which ``keep`` renames. If the reception ends early, this file remains,
    and the next reception of the same version resumes from it. If the reader refuses the content, the file is deleted.

    Args:
        url: Address of the file, http or https.
        path: Destination path of the file.
        bits_per_second: Highest rate in bits per second, to simulate a slow link (default: unlimited).

    Raises:
        AsrDeployError: If the address is not valid, or the server does not have the file or does not announce its length. From ``read``:
            if the connection is lost for good, or the content is not what the server announced.
    """

    def __init__(self, url: str, path: Path, *, bits_per_second: float | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise AsrDeployError(f"Cannot receive from “{url}”. Give an address that starts with http:// or https:// and a host name.")
        if bits_per_second is not None and bits_per_second <= 0:
            raise AsrDeployError("The rate of a reception must be more than 0 bits per second.")
        self.url, self.path = url, path
        self.resumed_from = self.connections = 0
        self.waited_seconds = 0.0
        self.arrived_at: float | None = None
        self._rate = bits_per_second
        self._free_at = 0.0  # when the limited rate allows the next read
        self._hash = hashlib.sha256()
        self._arrived = Condition()
        self._stop, self._ended, self._failure = Event(), False, None  # type: tuple[Event, bool, AsrDeployError | None]

    def __enter__(self) -> "Receiver":
        self.started_at = self._free_at = time.perf_counter()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            response, self.offer = self._first_answer()
            name = hashlib.sha256(f"{self.offer.version} {self.offer.length}".encode()).hexdigest()[:16]
            self.part = self.path.with_name(f".{self.path.name}.{name}.part")
            self.part.touch()
            self._have = self.resumed_from = self._earlier()
            self._file = self.part.open("rb")
        except OSError as error:
            raise AsrDeployError(f"Cannot write {self.path}: {error.strerror or error}.") from error
        if self._have:  # the first part is stored already, so request only the rest
            response.close()
        self._thread = Thread(target=self._run, args=(None if self._have else response,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=1)  # it may hang in a dead connection, but a daemon thread does not block the exit
        self._file.close()
        if isinstance(error, AsrDeployError) and self._failure is None:
            self.part.unlink(missing_ok=True)  # the reader refused the content, and would refuse it again after a resume

    def read(self, size: int, /) -> bytes:
        """Wait for data and return at most ``size`` bytes, or no bytes at the end of the file."""
        waiting = time.perf_counter()
        with self._arrived:
            self._arrived.wait_for(lambda: self._ended or self._file.tell() < self._have)
            ready = self._have - self._file.tell()
        self.waited_seconds += time.perf_counter() - waiting
        if ready == 0 and self._failure is not None:
            raise self._failure
        return self._file.read(min(size, ready))

    def keep(self) -> None:
        """Move the complete file to ``path``, replacing any file there."""
        try:
            self.part.replace(self.path)
        except OSError as error:
            raise AsrDeployError(f"Cannot write {self.path}: {error.strerror or error}.") from error

    def _earlier(self) -> int:
        """Return the number of bytes left by an earlier reception, and add them to the digest."""
        size = self.part.stat().st_size
        if size > self.offer.length:
            self.part.write_bytes(b"")
            return 0
        with self.part.open("rb") as file:
            while data := file.read(LARGEST_READ):
                self._hash.update(data)
        return size

    def _run(self, response: http.client.HTTPResponse | None) -> None:
        try:
            self._fetch(response)
            self.arrived_at = time.perf_counter()
        except AsrDeployError as error:
            self._failure = error
        except Exception as error:  # the reader must never wait forever
            self._failure = AsrDeployError(f"Cannot receive {self.url}: {error or type(error).__name__}.")
        finally:
            with self._arrived:
                self._ended = True
                self._arrived.notify_all()

    def _fetch(self, response: http.client.HTTPResponse | None) -> None:
        """Receive the rest of the file, reconnecting as necessary, and compare the digest."""
        failures, most = 0, self._have
        while self._have < self.offer.length and not self._stop.is_set():
            try:
                self._append(response or self._rest())
                return self._check()
            except (OSError, http.client.HTTPException, _Cut) as error:
                failures, most = (1, self._have) if self._have > most else (failures + 1, most)
                self._pause(error, failures)
                response = None
        self._check()

    def _check(self) -> None:
        if self._have == self.offer.length and self.offer.sha256 not in (None, self._hash.hexdigest()):
            self.part.unlink(missing_ok=True)
            raise AsrDeployError(f"The content from {self.url} does not match the checksum that the server announced. Receive it again.")

    def _first_answer(self) -> tuple[http.client.HTTPResponse, Offer]:
        for failures in range(1, len(RETRY_PAUSES) + 2):
            try:
                return self._ask(0)
            except (OSError, http.client.HTTPException) as error:
                self._pause(error, failures)
        raise AssertionError("the last pause raises")

    def _pause(self, error: Exception, failures: int) -> None:
        """Wait before the next attempt.

        Raises:
            AsrDeployError: If there are no attempts left, or another attempt would not help.
        """
        final = isinstance(error, urllib.error.HTTPError) and error.code not in PASSING_STATUS
        if final or failures > len(RETRY_PAUSES):
            raise AsrDeployError(f"Cannot receive {self.url} ({_reason(error)}). Repeat the command to resume.") from error
        self._stop.wait(RETRY_PAUSES[failures - 1])

    def _ask(self, start: int) -> tuple[http.client.HTTPResponse, Offer]:
        """Request the file from byte ``start`` on, and return the response and what it announces about the whole file."""
        self.connections += 1
        headers = {"Range": f"bytes={start}-"} if start else {}
        # Without compression in transit, the received bytes are those of the file.
        request = urllib.request.Request(self.url, headers=headers | {"Accept-Encoding": "identity"})
        response = urllib.request.urlopen(request, timeout=SOCKET_TIMEOUT)
        return response, _offer(response, self.url)

    def _rest(self) -> http.client.HTTPResponse:
        """Request the missing part, and return the response positioned at its first missing byte."""
        have = self._have
        try:
            response, offer = self._ask(have)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise AsrDeployError(
                    f"{self.url} has only {have} bytes, but the server announced {self.offer.length}. Check the server."
                ) from error
            raise
        if offer != self.offer:
            self.part.unlink(missing_ok=True)
            raise AsrDeployError(f"{self.url} changed while it was received. Receive it again.")
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise AsrDeployError(f"The server of {self.url} sent a different part than was requested. Check the server.")
            return response
        while have > 0:  # skip what is stored already, because the server does not support ranges
            have -= len(self._some(response, have))
        return response

    def _append(self, response: http.client.HTTPResponse) -> None:
        with response, self.part.open("ab", buffering=0) as file:
            while self._have < self.offer.length and not self._stop.is_set():
                data = self._some(response, self.offer.length - self._have)
                try:
                    file.write(data)
                except OSError as error:
                    raise AsrDeployError(f"Cannot write {self.part}: {error.strerror or error}.") from error
                self._hash.update(data)
                with self._arrived:
                    self._have += len(data)
                    self._arrived.notify_all()

    def _some(self, response: http.client.HTTPResponse, most: int) -> bytes:
        """Read as much as the rate allows at a time, and wait as long as the rate requires."""
        size = LARGEST_READ if self._rate is None else int(min(max(self._rate / 8 / READS_PER_SECOND, SMALLEST_READ), LARGEST_READ))
        data = response.read1(min(size, most))
        if not data:
            raise _Cut(f"the connection ended after {self._have} of {self.offer.length} bytes")
        if self._rate is not None:
            self._free_at = max(self._free_at, time.perf_counter() - CATCH_UP) + 8 * len(data) / self._rate
            self._stop.wait(max(0.0, self._free_at - time.perf_counter()))
        return data


def _offer(response: http.client.HTTPResponse, url: str) -> Offer:
    length = response.headers.get("Content-Length", "")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Range", "").rpartition("/")[2]
    if not length.isdecimal():
        raise AsrDeployError(
            f"The server of {url} does not announce its length, so a reception cannot resume. Use a server that sends Content-Length."
        )
    if int(length) > LONGEST:
        raise AsrDeployError(f"The server of {url} announces {length} bytes, but at most {LONGEST} are allowed.")
    sha256 = _digest(response.headers.get("Repr-Digest", ""))
    version = sha256 or response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return Offer(int(length), version, sha256)


def _digest(header: str) -> str | None:
    """Return the SHA-256 of a ``Repr-Digest`` (RFC 9530), ``sha-256=:BASE64:``, in hexadecimal, or None if there is none."""
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "sha-256":
            try:
                return base64.b64decode(value.strip(":"), validate=True).hex()
            except ValueError:
                return None
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    cause: Any = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
