"""The services ``shell:``, ``shell,v2:`` and ``exec:``: run commands in /bin/sh with Android's paths and programs in the folder."""

import contextlib
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.device_runner.phone.emulated_device import programs
from tests.device_runner.phone.emulated_device.adbd import Stream
from tests.device_runner.phone.emulated_device.state import read_state

if TYPE_CHECKING:
    from tests.device_runner.phone.emulated_device.device import EmulatedDevice

PACKET = struct.Struct("<BI")
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
CHUNK = 32 << 10
DEVICE_FOLDERS = ("/data/local/tmp", "/sdcard")
BINARIES = "system/bin"


def lead_into(folder: Path, command: str) -> str:
    """Return the command with the device's folders replaced by those in ``folder``. Paths in ``folder`` stay unchanged."""
    names = "|".join(map(re.escape, DEVICE_FOLDERS))
    return re.sub(rf"(?:{re.escape(str(folder))})?({names})(?![\w.-])", lambda found: f"{folder}{found[1]}", command)


def write_programs(folder: Path) -> None:
    """Write the replacements of Android's programs into the device's ``/system/bin``."""
    binaries = folder / BINARIES
    binaries.mkdir(parents=True, exist_ok=True)
    for name in programs.PROGRAMS:
        script = binaries / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{Path(programs.__file__).resolve()}" {name} "$@"\n')
        script.chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a command on the device. Only the PATH of this machine is inherited, after the device's."""
    return {
        "PATH": f"{folder / BINARIES}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(folder),
        "TMPDIR": str(folder / "data/local/tmp"),
        programs.FOLDER_VARIABLE: str(folder),
        **read_state(folder)["environment"],
    }


def serve_exec(device: "EmulatedDevice", command: str, stream: Stream) -> None:
    """Run a command with the stream as its standard input and output."""
    process = _start(device.folder, command, merged=True)
    threading.Thread(target=_feed_raw, args=(stream, process), daemon=True).start()
    with _ending(process):
        _copy(process.stdout, stream, None)


def serve_shell(device: "EmulatedDevice", command: str, stream: Stream) -> None:
    """Run a command, and exchange its input, outputs and exit code in packets."""
    process = _start(device.folder, command, merged=False)
    threading.Thread(target=_feed_packets, args=(stream, process), daemon=True).start()
    with _ending(process):
        errors = threading.Thread(target=_copy, args=(process.stderr, stream, STDERR), daemon=True)
        errors.start()
        _copy(process.stdout, stream, STDOUT)
        errors.join()
    code = process.returncode
    stream.write(PACKET.pack(EXIT, 1) + bytes([code if code >= 0 else 128 - code]))


def _start(folder: Path, command: str, *, merged: bool) -> subprocess.Popen[bytes]:
    words = ["/bin/sh", "-c", lead_into(folder, command)] if command else ["/bin/sh"]
    return subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        cwd=folder,
        env=environment(folder),
        start_new_session=True,
        bufsize=0,
    )


@contextlib.contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Wait for the process at the end. Without a host, it runs until it writes."""
    try:
        yield
    finally:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()


def _copy(pipe: IO[bytes] | None, stream: Stream, packet: int | None) -> None:
    assert pipe is not None
    with contextlib.suppress(BrokenPipeError, ValueError):
        while data := os.read(pipe.fileno(), CHUNK):
            stream.write(data if packet is None else PACKET.pack(packet, len(data)) + data)


def _feed_raw(stream: Stream, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):
        while data := stream.read():
            process.stdin.write(data)
    with contextlib.suppress(OSError):
        process.stdin.close()


def _feed_packets(stream: Stream, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(EOFError, OSError, ValueError):
        while True:
            kind, size = PACKET.unpack(stream.read_exactly(PACKET.size))
            data = stream.read_exactly(size)
            if kind == STDIN:
                process.stdin.write(data)
            elif kind == CLOSE_STDIN:
                break
    with contextlib.suppress(OSError):
        process.stdin.close()
    while stream.read():  # packets after the end of the input
        pass
