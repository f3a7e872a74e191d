"""The service ``sync:``: transfer files to and from the device, with versions 1 and 2 of stat."""

import contextlib
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from tests.device_runner.phone.emulated_device.adbd import Stream

if TYPE_CHECKING:
    from tests.device_runner.phone.emulated_device.device import EmulatedDevice

HEAD = struct.Struct("<4sI")
STAT = struct.Struct("<4s3I")  # id, mode, size, mtime
STAT2 = struct.Struct("<4sI2Q4IQ3q")  # id, error, dev, ino, mode, nlink, uid, gid, size, atime, mtime, ctime
ENTRY = struct.Struct("<4s4I")  # id, mode, size, mtime, length of the name
CHUNK = 64 << 10
LONGEST_PATH = 1024
NO_SPACE = "No space left on device"


class Refused(Exception):
    """Reason in a FAIL response."""


def serve_sync(device: "EmulatedDevice", stream: Stream) -> None:
    """Serve requests until QUIT or the end of the stream."""
    while True:
        kind, size = HEAD.unpack(stream.read_exactly(HEAD.size))
        if kind == b"QUIT":
            return
        if size > LONGEST_PATH:
            return _fail(stream, "path too long")
        name = stream.read_exactly(size).decode(errors="surrogateescape")
        handler = {b"STAT": _stat, b"STA2": _stat2, b"LST2": _stat2, b"LIST": _list, b"RECV": _receive, b"SEND": _send}.get(kind)
        if handler is None:
            return _fail(stream, f"unknown command {kind!r}")
        try:
            handler(device, stream, kind, name)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            _fail(stream, error.strerror or str(error))
        except Refused as refusal:
            _fail(stream, str(refusal))


def _fail(stream: Stream, reason: str) -> None:
    stream.write(HEAD.pack(b"FAIL", len(reason.encode())) + reason.encode())


def _facts(path: Path, *, follow: bool) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return path.stat() if follow else path.lstat()
    return None


def _stat(device: "EmulatedDevice", stream: Stream, kind: bytes, name: str) -> None:
    facts = _facts(device.local(name), follow=False)
    stream.write(STAT.pack(b"STAT", *((facts.st_mode, facts.st_size & 0xFFFFFFFF, int(facts.st_mtime)) if facts else (0, 0, 0))))


def _stat2(device: "EmulatedDevice", stream: Stream, kind: bytes, name: str) -> None:
    try:
        path = device.local(name)
        facts = path.stat() if kind == b"STA2" else path.lstat()
    except OSError as error:
        return stream.write(STAT2.pack(kind, error.errno or 0, *(0,) * 10))
    times = (int(facts.st_atime), int(facts.st_mtime), int(facts.st_ctime))
    owner = (facts.st_mode, facts.st_nlink, facts.st_uid, facts.st_gid)
    stream.write(STAT2.pack(kind, 0, facts.st_dev, facts.st_ino, *owner, facts.st_size, *times))


def _list(device: "EmulatedDevice", stream: Stream, kind: bytes, name: str) -> None:
    folder = device.local(name)
    found = []
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        facts = _facts(each, follow=False)
        if facts is not None:
            label = os.fsencode(each.name)
            found.append(ENTRY.pack(b"DENT", facts.st_mode, facts.st_size & 0xFFFFFFFF, int(facts.st_mtime), len(label)) + label)
    stream.write(b"".join(found) + ENTRY.pack(b"DONE", 0, 0, 0, 0))


def _receive(device: "EmulatedDevice", stream: Stream, kind: bytes, name: str) -> None:
    with device.local(name).open("rb") as file:
        data = file.read(CHUNK)
        while len(data) == CHUNK:
            stream.write(HEAD.pack(b"DATA", len(data)) + data)
            data = file.read(CHUNK)
    last = HEAD.pack(b"DATA", len(data)) + data if data else b""
    stream.write(last + HEAD.pack(b"DONE", 0))  # in one message, because a second one would wait for a delayed acknowledgement


def _send(device: "EmulatedDevice", stream: Stream, kind: bytes, name: str) -> None:
    """Write a file as it arrives. After a cut, the incomplete file remains, as on a real phone."""
    target, _, mode = name.rpartition(",")
    path = device.local(target)
    if not device.may_write(target):
        _drain(stream)
        raise Refused(f"couldn't create file: {'Is a directory' if path.is_dir() else 'Permission denied'}")
    if stat.S_ISLNK(int(mode)):
        link = b"".join(iter(lambda: _data(stream), None))
        path.unlink(missing_ok=True)
        path.symlink_to(device.local(os.fsdecode(link).rstrip("\0")))
        return stream.write(HEAD.pack(b"OKAY", 0))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        free = device.free_bytes()
        with path.open("xb") as file:
            while (data := _data(stream)) is not None:
                if free is not None and file.tell() + len(data) > free:
                    raise Refused(f"write failed: {NO_SPACE}")
                file.write(data)
    except (OSError, Refused) as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        if not isinstance(error, BrokenPipeError):
            _drain(stream)  # an old client sends all data before it reads the response
        raise
    path.chmod((int(mode) & 0o777) or 0o644)
    stream.write(HEAD.pack(b"OKAY", 0))


def _data(stream: Stream) -> bytes | None:
    """Return the next chunk of a file, or None after the last."""
    kind, size = HEAD.unpack(stream.read_exactly(HEAD.size))
    if kind == b"DONE":  # its size field contains the file's modification time
        return None
    if kind != b"DATA" or size > CHUNK:
        raise EOFError
    return stream.read_exactly(size)


def _drain(stream: Stream) -> None:
    while _data(stream) is not None:
        pass
