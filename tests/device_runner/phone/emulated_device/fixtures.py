"""Fixtures: an adb server for the test session, and a device that is connected to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_runner.phone.adb import Adb, Phone
from tests.device_runner.phone.emulated_device.device import EmulatedDevice
from tests.device_runner.phone.emulated_device.server import AdbServer


@dataclass(frozen=True)
class Connected:
    """An emulated device, and the phone that the client under test sees."""

    device: EmulatedDevice
    phone: Phone

    @property
    def serial(self) -> str:
        return self.device.serial

    @property
    def folder(self) -> Path:
        return self.device.folder


def connect(adb: Adb, device: EmulatedDevice, *, seconds: float = 20.0) -> Phone:
    """Connect a device and return it as a phone."""
    phone = adb.phone(device.serial)
    phone.wait(seconds)
    return phone


def disconnect(adb: Adb, device: EmulatedDevice) -> None:
    """Disconnect a device, so that the server does not try to reach it forever."""
    adb.run("disconnect", device.serial, seconds=10)


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """Run an adb server for the tests only."""
    with AdbServer(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture
def emulated(adb_server: AdbServer, tmp_path: Path) -> Iterator[Connected]:
    """Connect an emulated device: ``.device`` injects faults; ``.phone``, ``.serial`` and ``.folder`` belong to it."""
    adb = adb_server.adb()
    with EmulatedDevice(tmp_path / "device") as device:
        yield Connected(device, connect(adb, device))
        disconnect(adb, device)
