"""The emulated device: it listens on a port of this machine, stores its files in a folder, and fails on demand."""

import contextlib
import os
import shlex
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.device_runner.phone.emulated_device import apps, programs
from tests.device_runner.phone.emulated_device import faults as faults_module
from tests.device_runner.phone.emulated_device.adbd import Connection, Stream
from tests.device_runner.phone.emulated_device.faults import Faults
from tests.device_runner.phone.emulated_device.shell import DEVICE_FOLDERS, lead_into, serve_exec, serve_shell, write_programs
from tests.device_runner.phone.emulated_device.state import DEFAULTS, NAME, change_state, free_bytes, read_state, used_bytes, write_state
from tests.device_runner.phone.emulated_device.sync import serve_sync

FEATURES = ("shell_v2", "cmd", "stat_v2")


class EmulatedDevice:
    """An emulated device that runs inside a ``with`` block. Its methods may be called from any thread.

    Args:
        folder: Folder of the device's files, created if necessary. The files of an earlier device in it are used again.
        port: TCP port on this machine (default: 0, any free port).
        state: Changes of the initial state, by key of ``state.DEFAULTS``.
        features: Features that the device announces. Without ``cmd``, apps are pushed before they are installed.
        authorised: Whether the device trusts the host.
        system: What the device announces itself as: ``device``, ``recovery``, ``sideload``, ``bootloader`` …
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        state: dict[str, Any] | None = None,
        features: Sequence[str] = FEATURES,
        authorised: bool = True,
        system: str = "device",
    ) -> None:
        self.folder = folder.resolve()
        if shlex.quote(str(self.folder)) != str(self.folder):
            raise ValueError(f"{self.folder}: paths in commands are replaced as text; choose a folder without special characters")
        for each in DEVICE_FOLDERS:
            (self.folder / each.lstrip("/")).mkdir(parents=True, exist_ok=True)
        if not (self.folder / NAME).exists():
            write_state(self.folder, DEFAULTS)
        change_state(self.folder, lambda known: known.update(state or {}))
        write_programs(self.folder)
        self.faults = Faults()
        self._features, self._authorised, self._system = features, authorised, system
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._closed = False
        self._refusing_until = 0.0
        self._listener: socket.socket | None = None
        # Bound but not listening, so that the port stays reserved while the device refuses connections.
        self._reservation = _bound(port)
        self.port: int = self._reservation.getsockname()[1]
        self.serial = f"127.0.0.1:{self.port}"

    def __enter__(self) -> "EmulatedDevice":
        self._listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, and kill every process that a command left."""
        with self._lock:
            self._closed = True
        self._hang_up()
        self.faults.slow(0)
        self.drop()
        self._reservation.close()
        marker = f"{programs.FOLDER_VARIABLE}={self.folder}".encode()
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdecimal() and marker in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)

    # Files

    def local(self, name: str) -> Path:
        """Return the path on this machine for a path on the device. Raise PermissionError for paths outside the folder."""
        whole = lead_into(self.folder, name)
        path = Path(os.path.normpath(whole if whole.startswith(f"{self.folder}/") else f"{self.folder}/{whole}"))
        if path != self.folder and self.folder not in path.parents:
            raise PermissionError(13, "Permission denied")
        return path

    def may_write(self, name: str) -> bool:
        """Tell whether a path is a file in a folder that the shell user may write."""
        path = self.local(name)
        return not path.is_dir() and any(self.local(each) in path.parents for each in DEVICE_FOLDERS)

    def free_bytes(self) -> int | None:
        """Return the free space in bytes, or None if the disk has no limit."""
        return free_bytes(self.folder)

    # Faults and state on demand

    @property
    def state(self) -> dict[str, Any]:
        """Copy of the device's state; see ``change``."""
        return read_state(self.folder)

    def change(self, **values: Any) -> None:
        """Replace entries of the state, by key of ``state.DEFAULTS``."""
        change_state(self.folder, lambda state: state.update(values))

    @property
    def fault_counts(self) -> Counter[str]:
        """Number of faults of each kind so far."""
        return self.faults.counts

    def drop(self) -> None:
        """Drop all connections now."""
        with self._lock:
            connections, self._connections = self._connections, []
        for each in connections:
            each.drop()

    def drop_after_bytes(self, count: int) -> None:
        """Drop the connection after ``count`` more bytes, in the middle of a message."""
        self.faults.drop_after_bytes(count)

    def drop_at_message(self, number: int) -> None:
        """Drop the connection at the ``number``-th message from now on, where 1 is the next."""
        self.faults.drop_at_message(number)

    def refuse(self, seconds: float) -> None:
        """Drop all connections, and refuse new ones for ``seconds``."""
        with self._lock:
            self._refusing_until = time.monotonic() + seconds
        self._hang_up()
        self.drop()
        timer = threading.Timer(seconds, self._listen_again)
        timer.daemon = True
        timer.start()

    def fill_disk(self, free: int = 0) -> None:
        """Limit the disk to its current use plus ``free`` bytes. Removed files free space."""
        self.change(disk_bytes=used_bytes(self.folder) + free)

    def empty_disk(self) -> None:
        """Remove the limit of the disk."""
        self.change(disk_bytes=None)

    def run_hot(self, celsius: float = 45.0, status: int = 3) -> None:
        """Report battery and skin at ``celsius`` degrees C, and Android's thermal ``status`` (3: severe)."""
        self._set_heat(celsius, status)

    def cool_down(self, celsius: float = 29.0) -> None:
        """Report a normal temperature again."""
        self._set_heat(celsius, 0)

    def slow(self, seconds: float) -> None:
        """Delay every message by ``seconds``; 0 ends the delay."""
        self.faults.slow(seconds)

    def random_faults(self, seed: int, probability: float, kinds: Sequence[str] = faults_module.KINDS) -> None:
        """Inject one of ``kinds`` into each message with ``probability``; see ``Faults``."""
        self.faults.at_random(seed, probability, kinds)

    def kill_app(self, package: str = "org.asrdeploy.bench", *, seconds: float = 30.0) -> bool:
        """Kill a running instrumentation, after waiting at most ``seconds`` for it to start, and return whether it was running."""
        end = time.monotonic() + seconds
        while not apps.kill(self.folder, package):
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def authorise(self) -> None:
        """Trust the host, including hosts that are already waiting."""
        with self._lock:
            self._authorised = True
            waiting = [each for each in self._connections if not each.authorised]
        for each in waiting:
            each.welcome()

    def distrust(self) -> None:
        """Trust no host from now on, and drop all connections."""
        with self._lock:
            self._authorised = False
        self.drop()

    # Connections

    def _set_heat(self, celsius: float, status: int) -> None:
        def change(state: dict[str, Any]) -> None:
            state["battery"]["temperature"] = round(10 * celsius)
            state["thermal"].update(status=status, skin=celsius, cpu=celsius + 9)

        change_state(self.folder, change)

    def _listen(self) -> None:
        with self._lock:
            if self._closed or self._listener is not None or time.monotonic() < self._refusing_until:
                return
            self._listener = _bound(self.port)
            self._listener.listen()
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _listen_again(self) -> None:
        while time.monotonic() < self._refusing_until:
            time.sleep(0.005)
        self._listen()

    def _hang_up(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            connection = Connection(peer, self._banner(), lambda: self._authorised, self._service, self.faults)
            with self._lock:
                if self._listener is not listener:
                    peer.close()
                    return
                self._connections = [*(each for each in self._connections if not each.gone), connection]
            threading.Thread(target=connection.serve, daemon=True).start()

    def _banner(self) -> bytes:
        properties = self.state["properties"]
        facts = [f"{key}={properties.get(key, '')}" for key in ("ro.product.name", "ro.product.model", "ro.product.device")]
        return f"{self._system}::{';'.join(facts)};features={','.join(self._features)}".encode()

    def _service(self, name: str) -> Callable[[Stream], None] | None:
        kind, _, command = name.partition(":")
        if kind == "sync":
            return partial(serve_sync, self)
        if kind == "exec" or kind == "shell":
            return partial(serve_exec, self, command)
        if kind.startswith("shell,v2"):
            return partial(serve_shell, self, command)
        return None


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made
