"""Phones that adb lists but cannot use: each state is told at once, with what its user can do about it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_runner import device_choice
from device_runner.artifact import Artifact
from device_runner.device_choice import Choice, open_device
from device_runner.errors import AsrDeployError
from device_runner.phone.adb import Adb, DeviceLost
from device_runner.phone.remedies import needs_a_person, remedy
from device_runner.phone.state import read_properties
from tests.device_runner.phone.emulated_device.device import EmulatedDevice
from tests.device_runner.phone.emulated_device.fixtures import Connected, disconnect
from tests.device_runner.phone.emulated_device.server import AdbServer
from tests.device_runner.phone.phone_parts import HASTY, opened
from tests.helpers import Completed, complaint
from toolchain.data.datasets import Utterance
from toolchain.doctor import checks

TOLD_WITHIN = 2.0  # seconds
PATIENT = 30.0
ALLOW = "Unlock it and allow USB debugging when it asks."


@pytest.fixture(autouse=True)
def _server(adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lead commands to the adb server of the tests."""
    monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", adb_server.socket)


@contextmanager
def listed(adb: Adb, device: EmulatedDevice, state: str) -> Iterator[EmulatedDevice]:
    """Connect a device and wait until adb lists it in a state."""
    with device:
        adb.run("connect", device.serial, seconds=10)
        end = time.monotonic() + PATIENT
        while [each.state for each in adb.devices() if each.serial == device.serial] != [state]:
            assert time.monotonic() < end, adb.devices()
            time.sleep(0.02)
        try:
            yield device
        finally:
            disconnect(adb, device)


def stand_in(tmp_path: Path, *rows: str, error: str = "error: device 'x' not found") -> Path:
    """Return a program that prints a list of devices as adb does, and fails with an error at everything else."""
    program = tmp_path / "adb"
    lines = "\n".join(rows)
    program.write_text(f"""#!/bin/sh
case "$*" in
*version*) echo 'Android Debug Bridge version 1.0.41' ;;
*"devices -l"*) cat <<'END'
List of devices attached
{lines}
END
;;
*) cat >&2 <<'END'
{error}
END
exit 1 ;;
esac
""")
    program.chmod(0o755)
    return program


def test_a_phone_that_does_not_trust_this_computer_is_told_at_once(
    adb_server: AdbServer, tmp_path: Path, cli: Callable[..., Completed], tiny_int8: Artifact, speech: tuple[Utterance, ...]
) -> None:
    with listed(adb_server.adb(), EmulatedDevice(tmp_path / "device", authorised=False), "unauthorized") as device:
        begun = time.monotonic()
        with pytest.raises(DeviceLost, match=f"{device.serial} does not trust this computer .*{ALLOW}"):
            open_device(Choice(device.serial))
        assert time.monotonic() - begun < TOLD_WITHIN
        for command in (("transcribe", tiny_int8.folder, speech[0].path), ("evaluate", tiny_int8.folder, "--limit", 1)):
            done = cli(*command, "--device", device.serial)
            assert done.returncode == 3 and ALLOW in done.stderr, done.stderr
        assert ALLOW in cli("devices", "--clean", device.serial).stderr
        shown = cli("devices", "--json", "-")
        row = next(each for each in json.loads(shown.stdout) if each["name"] == device.serial)
        assert row["state"] == "unauthorized" and ALLOW in row["remedy"] and row["remedy"] in shown.stderr
        report = checks.devices_row(client=True)
        assert report.state == "note" and f"{device.serial} (unauthorized)" in report.found and ALLOW.rstrip(".") in report.found


def test_a_phone_whose_user_allows_it_meanwhile_is_used(adb_server: AdbServer, emulated: Connected) -> None:
    phone = opened(emulated, HASTY)
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if ALLOW in sentence:
            emulated.device.authorise()

    phone.say = say
    emulated.device.distrust()
    assert phone._steadily(lambda: read_properties(emulated.phone)) == phone.properties
    assert any(ALLOW in each and "Waiting up to" in each for each in said), said


@pytest.mark.parametrize(
    ("system", "words"),
    [("recovery", "is in recovery mode"), ("sideload", "waits for an update"), ("bootloader", "is in its bootloader")],
)
def test_a_phone_in_another_system_says_how_it_is_restarted(adb_server: AdbServer, tmp_path: Path, system: str, words: str) -> None:
    with listed(adb_server.adb(), EmulatedDevice(tmp_path / "device", system=system), system) as device:
        begun = time.monotonic()
        with pytest.raises(DeviceLost, match=f"{device.serial} {words}"):
            open_device(Choice(device.serial))
        assert time.monotonic() - begun < TOLD_WITHIN


def test_a_phone_that_is_away_is_told_at_once_and_waited_for(adb_server: AdbServer, tmp_path: Path) -> None:
    begun = time.monotonic()
    told: list[tuple[float, str]] = []
    with EmulatedDevice(tmp_path / "device") as device:
        device.refuse(3)
        opened_later = open_device(
            Choice(device.serial, via="shell", patience=HASTY), lambda sentence: told.append((time.monotonic() - begun, sentence))
        )
        assert opened_later.name == device.serial
        disconnect(adb_server.adb(), device)
    assert "is not connected (not found)" in told[0][1] and told[0][0] < TOLD_WITHIN


def test_a_phone_over_usb_without_permission_names_the_udev_rules(tmp_path: Path, cli: Callable[..., Completed]) -> None:
    state = "no permissions (user in plugdev group; are your udev rules wrong?); see [http://developer.android.com/tools/device.html]"
    adb = stand_in(tmp_path, f"R58M45  {state}  usb:1-4", error="error: insufficient permissions for device: are your udev rules wrong?")
    with pytest.raises(DeviceLost, match=r"R58M45 may not be used by your account \(no permissions.*Install the udev rules"):
        open_device(Choice("R58M45", adb=adb))
    assert "Install the udev rules" in cli("devices", "--adb", adb).stderr


def test_two_phones_with_the_same_serial_are_told_apart_from_none(tmp_path: Path, cli: Callable[..., Completed]) -> None:
    adb = stand_in(tmp_path, "0123456789ABCDEF  device usb:1-1", "0123456789ABCDEF  device usb:1-2", error="error: more than one device")
    with pytest.raises(DeviceLost, match="names more than one device"):
        open_device(Choice("0123456789ABCDEF", adb=adb))
    shown = cli("devices", "--adb", adb, "--json", "-")
    assert [each["state"] for each in json.loads(shown.stdout)[2:]] == ["more than one device"] * 2
    assert "Disconnect the others" in shown.stderr


def test_a_misspelt_serial_names_the_nearest_phone(emulated: Connected, adb_server: AdbServer, tmp_path: Path) -> None:
    adb = stand_in(tmp_path, "R58M45XYZ  device", "emulator-5554  offline")
    for call in (
        lambda: open_device(Choice("R58M54XYZ", adb=adb)),
        lambda: open_device(Choice("model:R58M54XYZ", adb=adb)),
        lambda: device_choice.clean(Adb(adb), "R58M54XYZ"),
    ):
        with pytest.raises(AsrDeployError, match=r"Did you mean R58M45XYZ\? .* A phone that is not listed is not connected"):
            call()


def test_a_state_that_asrdeploy_does_not_know_is_shown(tmp_path: Path, cli: Callable[..., Completed]) -> None:
    adb = stand_in(tmp_path, "R58M45  hibernating  usb:1-4")
    assert "R58M45 is in a state in which it runs no jobs (hibernating)." in cli("devices", "--adb", adb).stderr


PASSING = ("authorizing", "connecting", "offline", "not found")
LASTING = ("unauthorized", "recovery", "rescue", "sideload", "bootloader", "host", "detached", "no permissions", "more than one device")


@pytest.mark.parametrize("state", [*PASSING, *LASTING])
def test_every_state_of_adb_has_a_true_sentence(state: str) -> None:
    for when in ("", "waited 3 s"):
        text = remedy("R58 M45", state, when)
        assert text.startswith("R58 M45 ") and text.endswith(".") and "{" not in text
        assert state in text and when in text
    assert needs_a_person(state) == (state in LASTING)


def test_a_mistake_about_a_device_is_one_sentence(cli: Callable[..., Completed], tiny_int8: Artifact, emulated: Connected) -> None:
    assert f"Did you mean {emulated.serial}?" in complaint(cli("bench", tiny_int8.folder, "--device", emulated.serial.replace(":", "")))
