"""What `asrdeploy doctor` reports of the adb server: running, elsewhere, silent, or replaced by another program."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from tests.device_runner.phone.emulated_device.fixtures import Connected
from tests.device_runner.phone.emulated_device.server import AdbServer
from toolchain.doctor import checks, probes
from toolchain.doctor.checks import Row
from toolchain.doctor.probes import adb_devices, json_lines, server_address, server_name

pytestmark = pytest.mark.usefixtures("no_adb_server")


def test_the_devices_of_a_running_server(adb_server: AdbServer, emulated: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", adb_server.socket)
    row = checks.devices_row(client=True)
    assert row.state == "ok" and f"{emulated.serial} (ready)" in row.found


def test_a_server_without_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AdbServer(tmp_path / "adb") as server:
        monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", server.socket)
        assert checks.devices_row(client=True).found == "none connected"


@contextmanager
def listener(answer: bytes | None) -> Iterator[tuple[str, int]]:
    """A program that listens at the address of an adb server and gives an answer, or none until the test ends."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(100)
                if answer is None:
                    ended.wait(60)
                else:
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"FAIL0004what", b"OKAY", b"OKAY00ffcut", b"OKAYzzzz", b"\xff" * 99]
)
def test_something_else_in_the_place_of_the_server(answer: bytes) -> None:
    with listener(answer) as address, pytest.raises(AsrDeployError, match="Another program listens at the address of the adb server"):
        adb_devices(address)


def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LIMIT", 0.3)
    with listener(None) as address:
        monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", f"tcp:{address[1]}")
        row = checks.devices_row(client=True)
    assert row.state == "note" and "does not answer within 0.3 s" in row.found


@pytest.mark.parametrize("name", ["tcp:10.1.2.3:5037", "tcp:farm.example:5037", "localabstract:adb", "tcp:99999", "nonsense", ""])
def test_a_server_elsewhere_is_not_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_address(name) is None
    if name:
        monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", name)
        assert "is not queried here" in checks.devices_row(client=True).found


def test_where_the_server_is() -> None:
    assert server_address(server_name({})) == ("127.0.0.1", 5037)
    assert server_address(server_name({"ANDROID_ADB_SERVER_PORT": "6000"})) == ("127.0.0.1", 6000)
    socket_of_adb = {"ADB_SERVER_SOCKET": "localfilesystem:/run/adb", "ANDROID_ADB_SERVER_PORT": "6000"}
    assert server_address(server_name(socket_of_adb)) == "/run/adb"
    assert server_address(server_name({**socket_of_adb, "ASRDEPLOY_ADB_SERVER": "tcp:[::1]:7000"})) == ("::1", 7000)
    assert adb_devices("/nowhere/adb") is None


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert isinstance(json_lines(text), dict)
    address = server_address(f"tcp:{text}")
    assert address is None or address[0] in ("127.0.0.1", "::1")
    assert Row(name="any", state="ok", found=text).found.isprintable()
