"""A separate adb server, so that the tests never touch a user's server and its phones."""

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from device_runner.phone.adb import Adb, find_adb

OWN = {
    "ADB_USB": "0",
    "ADB_EMU": "0",
    "ADB_MDNS": "0",
    "ADB_MDNS_AUTO_CONNECT": "0",
}  # do not look for devices on USB, in the network or in Android's emulators
START = 20.0  # seconds


class AdbServer:
    """An adb server that runs as a child process inside a ``with`` block.

    Args:
        folder: Folder of its key, its log and its temporary files.
        program: Path of the adb to use (default: the one that ``find_adb`` finds).
    """

    def __init__(self, folder: Path, *, program: Path | None = None) -> None:
        self.folder, self.program = folder, program or find_adb().program
        self.variables = {**OWN, "HOME": str(folder), "TMPDIR": str(folder)}
        self.socket = ""

    def __enter__(self) -> "AdbServer":
        self.folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.socket = f"tcp:localhost:{self.port}"
        with (self.folder / "adb-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, "-L", self.socket, "server", "nodaemon"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.variables,
            )
        end = time.monotonic() + START
        while not self._answers():  # an earlier client would start another server
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                raise RuntimeError(f"adb's server did not start: {(self.folder / 'adb-server.log').read_text(errors='replace')}")
            time.sleep(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._answers():  # a client has restarted it meanwhile
            with contextlib.suppress(Exception):
                self.adb().run("kill-server", seconds=5)

    def adb(self) -> Adb:
        """Return a client of this server."""
        return Adb(self.program, server=self.socket, environment=self.variables)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
