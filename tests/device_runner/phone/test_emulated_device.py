"""Test the emulated device: its apps, heat, faults and command line. Despite faults, files arrive complete or not at all."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runner.errors import AsrDeployError
from device_runner.phone.adb import CommandFailed, DeviceLost, quoted
from device_runner.phone.adb_output import parse_free_bytes
from tests.device_runner.phone.emulated_device.device import EmulatedDevice
from tests.device_runner.phone.emulated_device.faults import KINDS
from tests.device_runner.phone.emulated_device.fixtures import Connected, connect, disconnect
from tests.device_runner.phone.emulated_device.server import AdbServer
from tests.helpers import REPOSITORY

TMP = "/data/local/tmp"
BENCH = "org.asrdeploy.bench"
INSTRUMENT = quoted(
    "am", "instrument", "-w", "-e", "job", f"{TMP}/job.json", "-e", "result", "/sdcard/result.json", f"{BENCH}/.JobInstrumentation"
)
SOON = 60.0  # seconds; only a failing test waits this long


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def with_app(emulated: Connected, tmp_path: Path) -> Connected:
    """Return a device whose app copies the job to the result, fails or hangs, as the job file tells it."""
    (tmp_path / "app.apk").write_text("asrdeploy-version 1.0 7")
    emulated.phone.install(tmp_path / "app.apk")
    program = 'case $(cat "$1") in fail) echo oh no; exit 3;; hang) touch "$1.begun"; sleep 600;; *) cp "$1" "$2";; esac'
    emulated.device.change(instrument=["sh", "-c", program, "bench"])
    return emulated


def begin_hanging(device: Connected) -> tuple[threading.Thread, list[str]]:
    device.phone.shell(f"printf hang >{TMP}/job.json")
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(device.phone.shell(INSTRUMENT, seconds=SOON)))
    thread.start()
    until(device.device.local(f"{TMP}/job.json.begun").exists)
    return thread, said


def test_an_instrumentation_tells_how_it_ended(with_app: Connected, tmp_path: Path) -> None:
    phone = with_app.phone
    phone.shell(f"printf fine >{TMP}/job.json")
    assert phone.shell(INSTRUMENT).endswith("INSTRUMENTATION_CODE: -1\n")
    phone.pull("/sdcard/result.json", tmp_path / "result.json")
    assert (tmp_path / "result.json").read_text() == "fine"
    phone.shell(f"printf fail >{TMP}/job.json")
    assert phone.shell(INSTRUMENT) == "INSTRUMENTATION_RESULT: error=oh no\nINSTRUMENTATION_CODE: 0\n"
    phone.shell(f"pm uninstall {BENCH}")
    with pytest.raises(CommandFailed) as caught:
        phone.shell(INSTRUMENT)
    assert f"Unable to find instrumentation info for: ComponentInfo{{{BENCH}/.JobInstrumentation}}" in caught.value.output


@pytest.mark.parametrize("how", ["kill_app", "force-stop"])
def test_a_killed_app(how: str, with_app: Connected) -> None:
    thread, said = begin_hanging(with_app)
    if how == "kill_app":
        assert with_app.device.kill_app()
    else:
        with_app.phone.shell(f"am force-stop {BENCH}")
    thread.join(SOON)
    assert said == ["INSTRUMENTATION_RESULT: shortMsg=Process crashed.\nINSTRUMENTATION_CODE: 0\n"]
    assert not with_app.device.kill_app(seconds=0)


def test_an_app_outlives_the_connection(with_app: Connected) -> None:
    with_app.phone.shell(f"printf hang >{TMP}/job.json")
    with_app.phone.shell(f"setsid {INSTRUMENT} </dev/null >{TMP}/log 2>&1 &")
    until(with_app.device.local(f"{TMP}/job.json.begun").exists)
    with_app.device.drop()
    with_app.phone.wait(SOON)
    assert with_app.device.kill_app()
    until(lambda: "Process crashed" in with_app.phone.shell(f"cat {TMP}/log"))


def test_nothing_lives_on_after_the_device(adb_server: AdbServer, tmp_path: Path) -> None:
    adb = adb_server.adb()
    with EmulatedDevice(tmp_path / "device") as device:
        phone = connect(adb, device)
        phone.shell("setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $! >pid")
        pid = int((device.folder / "pid").read_text())
        disconnect(adb, device)
        os.kill(pid, 0)
    until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or Path(f"/proc/{pid}/cmdline").read_bytes() == b"")


def test_android_programs(emulated: Connected) -> None:
    phone, device = emulated.phone, emulated.device
    assert phone.shell("getprop ro.product.cpu.abi") == "arm64-v8a\n"
    assert "temperature: 290" in phone.shell("dumpsys battery") and "Thermal Status: 0" in phone.shell("dumpsys thermalservice")
    device.run_hot()
    assert "temperature: 450" in phone.shell("dumpsys battery") and "Thermal Status: 3" in phone.shell("dumpsys thermalservice")
    device.cool_down()
    assert "temperature: 290" in phone.shell("dumpsys battery") and "Thermal Status: 0" in phone.shell("dumpsys thermalservice")
    phone.shell("input keyevent KEYCODE_SLEEP")
    assert "mWakefulness=Asleep" in phone.shell("dumpsys power")
    phone.shell("settings put system screen_off_timeout 600000")
    assert phone.shell("settings get system screen_off_timeout; settings get global none") == "600000\nnull\n"
    device.change(environment={"ASRDEPLOY_LAUNCHER": "env -i"})
    assert phone.shell("echo $ASRDEPLOY_LAUNCHER; $ASRDEPLOY_LAUNCHER /bin/sh -c 'echo [$HOME]'") == "env -i\n[]\n"


def test_paths_are_led_into_the_folder(emulated: Connected) -> None:
    phone, root = emulated.phone, emulated.folder
    phone.shell(f"echo a >{TMP}/a; cp {TMP}/a /sdcard/b; echo c >'/sdcard/c d'; echo e >{root}{TMP}/e")
    assert phone.shell(f"cd {TMP} && pwd && ls") == f"{root}{TMP}\na\ne\n"
    assert {each.name for each in (root / "sdcard").iterdir()} == {"b", "c d"}
    assert phone.shell("echo /sdcards /data/local/tmpx") == "/sdcards /data/local/tmpx\n"
    with pytest.raises(PermissionError):
        emulated.device.local(f"{TMP}/../../../../outside")
    with pytest.raises(ValueError, match="special characters"):
        EmulatedDevice(root / "a b")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_whatever_goes_wrong_files_arrive(kind: str, seed: int, emulated: Connected, tmp_path: Path) -> None:
    """A caller that retries lost steps and compares sha256 gets every file: nothing hangs or is cut silently."""
    phone, local, back = emulated.phone, tmp_path / "local", tmp_path / "back"
    local.write_bytes(os.urandom(700_000))
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    emulated.device.random_faults(seed, 0.02 if kind == "drop" else 0.04, (kind,))

    def attempt(call: Callable[[], object]) -> bool:
        try:
            return call() is not False
        except DeviceLost:
            phone.wait(SOON)
        except AsrDeployError as error:
            assert kind == "corrupt", error
        return False

    def there() -> bool:
        phone.push(local, f"{TMP}/x", seconds=5)
        return phone.shell(f"sha256sum {TMP}/x", seconds=5).startswith(digest)

    def here() -> bool:
        phone.pull(f"{TMP}/x", back, seconds=5)
        return hashlib.sha256(back.read_bytes()).hexdigest() == digest

    rounds = 0
    while rounds < 100 and (rounds < 4 or not emulated.device.fault_counts[kind]):
        for step in (there, here):
            until(lambda step=step: attempt(step))
        rounds += 1
    assert set(emulated.device.fault_counts) == {kind}


def test_the_command_line(adb_server: AdbServer, tmp_path: Path) -> None:
    words = ["--folder", str(tmp_path / "device"), "--hot", "--free-bytes", "2048000", "--state", json.dumps({"wakefulness": "Dozing"})]
    command = [sys.executable, "-m", "tests.device_runner.phone.emulated_device", *words]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        serial = process.stdout.readline().strip().removeprefix("listening on ")
        phone = adb_server.adb().phone(serial)
        phone.wait(SOON)
        assert "temperature: 450" in phone.shell("dumpsys battery") and "Dozing" in phone.shell("dumpsys power")
        assert parse_free_bytes(phone.shell(quoted("df", "-k", TMP)), TMP) == 2_048_000
        process.terminate()
        assert process.wait(SOON) == 0
        phone.adb.run("disconnect", serial, seconds=10)
