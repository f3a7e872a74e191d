"""Test jobs on an emulated phone through the real adb client, with the Python runner in place of the app and faults of every kind."""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from device_runner.artifact import Artifact
from device_runner.contract import Heard, Timed
from device_runner.devices import local_device
from device_runner.errors import AsrDeployError
from device_runner.jobs import Task
from device_runner.phone.arm_bundle import qemu_launcher
from device_runner.phone.device import AdbDevice
from device_runner.phone.runners import APP, AppRunner, ShellRunner
from device_runner.phone.state import kind_of, merged, parse_state
from tests.android.fixtures import benchcore_jar
from tests.device_runner.phone.emulated_device.device import EmulatedDevice
from tests.device_runner.phone.emulated_device.fixtures import Connected, connect, disconnect
from tests.device_runner.phone.emulated_device.server import AdbServer
from tests.device_runner.phone.phone_parts import HASTY, accuracy, latency, opened, texts, with_app
from toolchain.data.datasets import DataSet

SLOW_RUNNER = """
import sys, time
from pathlib import Path
from device_runner import runner
plain = runner._hear
def hear(*given, **named):
    time.sleep(0.15)
    return plain(*given, **named)
runner._hear = hear
with Path({log!r}).open("a") as log: log.write("started\\n")
sys.exit(runner.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def task(tiny_int8: Artifact, test_clean: DataSet) -> Task:
    return accuracy(tiny_int8, test_clean, 12)


@pytest.fixture(scope="module")
def expected(task: Task) -> list[str]:
    return [each.hypothesis for each in local_device().run(task).transcripts]


@pytest.fixture
def slow_app(emulated: Connected, tmp_path: Path) -> Path:
    """Install an app that is slow for every utterance, and return the log file of its starts."""
    script, log = tmp_path / "slow.py", tmp_path / "starts"
    script.write_text(SLOW_RUNNER.format(log=str(log)))
    with_app(emulated.device, sys.executable, str(script))
    return log


def test_a_job_by_the_app_gives_what_this_machine_gives(emulated: Connected, task: Task, expected: list[str]) -> None:
    with_app(emulated.device)
    lines: list[Heard | Timed] = []
    result = opened(emulated).run(task, lines.append)
    assert texts(result) == expected and [each.id for each in lines] == [each.id for each in task.job.audio]
    assert result.device.kind == "phone" and result.device.model == "Folder Emulated One (F1)" and "Android 15" in result.device.system
    assert (result.before.battery_celsius, result.after.charging, result.after.screen_on, result.before.thermal_status) == (
        29,
        True,
        True,
        0,
    )
    assert result.before.celsius == {"skin": 31.0, "CPU0": 40.0}
    # The job's folder is removed, and its files are pushed only once.
    assert not list((emulated.folder / "data/local/tmp/asrdeploy/jobs").iterdir())
    stored = {path.name: path.stat().st_mtime_ns for path in (emulated.folder / "data/local/tmp/asrdeploy/files").iterdir()}
    assert stored.keys() == task.files.keys()
    assert texts(opened(emulated).run(task)) == expected
    assert stored == {path.name: path.stat().st_mtime_ns for path in (emulated.folder / "data/local/tmp/asrdeploy/files").iterdir()}


def test_a_pulled_cable_loses_nothing_and_repeats_nothing(emulated: Connected, task: Task, expected: list[str], slow_app: Path) -> None:
    lines: list[str] = []

    def heard(line: Heard | Timed) -> None:
        lines.append(line.id)
        if len(lines) in (2, 5, 9):
            emulated.device.refuse(0.6)

    result = opened(emulated).run(task, heard)
    assert lines == [each.id for each in task.job.audio] and texts(result) == expected
    assert result.resumed == 0 and slow_app.read_text().count("started") == 1


def test_a_killed_app_goes_on_where_it_was(emulated: Connected, task: Task, expected: list[str], slow_app: Path) -> None:
    lines: list[str] = []

    def heard(line: Heard | Timed) -> None:
        lines.append(line.id)
        if len(lines) in (3, 7):
            assert emulated.device.kill_app()

    result = opened(emulated).run(task, heard)
    assert lines == [each.id for each in task.job.audio] and texts(result) == expected
    assert slow_app.read_text().count("started") == 3 and 7 <= result.resumed < 12


def test_a_killed_host_finds_the_job_running(emulated: Connected, task: Task, expected: list[str], slow_app: Path) -> None:
    class Killed(BaseException):
        """An exception that the device's code does not catch."""

    def heard(line: Heard | Timed) -> None:
        raise Killed

    with pytest.raises(Killed):
        opened(emulated).run(task, heard)
    lines: list[str] = []
    result = opened(emulated).run(task, lambda line: lines.append(line.id))
    assert lines == [each.id for each in task.job.audio] and texts(result) == expected
    assert slow_app.read_text().count("started") == 1 and result.resumed == 0


def test_an_interrupted_host_stops_the_job_and_goes_on_later(emulated: Connected, task: Task, expected: list[str], slow_app: Path) -> None:
    def heard(line: Heard | Timed) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(emulated).run(task, heard)
    time.sleep(0.3)
    (lines,) = (emulated.folder / "sdcard/Android/data" / APP / "files/jobs").glob("*/result.jsonl")
    before = lines.read_text()
    time.sleep(0.5)
    assert lines.read_text() == before  # it does not continue by itself
    result = opened(emulated).run(task)
    assert texts(result) == expected and 1 <= result.resumed < 12 and slow_app.read_text().count("started") == 2


def test_an_app_that_always_dies_ends_in_a_sentence(emulated: Connected, task: Task) -> None:
    with_app(emulated.device, "false")
    with pytest.raises(AsrDeployError, match=r"ended 3 times without a result\. Its last message: .+"):
        opened(emulated).run(task)


def test_an_app_that_hangs_is_stopped(emulated: Connected, task: Task) -> None:
    with_app(emulated.device, sys.executable, "-c", "import time; time.sleep(300)")
    with pytest.raises(AsrDeployError, match=r"finished no line within 1 s and was stopped"):
        opened(emulated, replace(HASTY, silence=1.0)).run(task)


def test_a_device_that_stays_away_ends_in_a_sentence(emulated: Connected, task: Task) -> None:
    with_app(emulated.device)
    device = opened(emulated, replace(HASTY, connection=1.0))
    emulated.device.refuse(60)
    started = time.monotonic()
    with pytest.raises(AsrDeployError, match=r"127\.0\.0\.1:\d+ is not connected|connection to .* was lost"):
        device.run(task)
    assert time.monotonic() - started < 40


def test_a_full_disk_is_said_before_anything_is_sent(emulated: Connected, task: Task) -> None:
    with_app(emulated.device)
    emulated.device.fill_disk(10_000)
    with pytest.raises(
        AsrDeployError, match=r"0 MB free in .* Free some space, or remove the files of earlier jobs with `asrdeploy devices --clean"
    ):
        opened(emulated).run(task)
    emulated.device.empty_disk()
    assert opened(emulated).run(task).error is None


def test_damaged_content_is_the_jobs_error(emulated: Connected, task: Task) -> None:
    with_app(emulated.device)
    device = opened(emulated)
    device.run(task)
    (emulated.folder / "data/local/tmp/asrdeploy/files" / task.job.audio[5].sha256).write_bytes(b"RIFF")
    with pytest.raises(AsrDeployError, match=rf"On 127.*: {task.job.audio[5].id}: .* does not match its sha256"):
        device.run(task)


def test_an_old_app_is_updated_or_said(emulated: Connected, task: Task, tmp_path: Path) -> None:
    with_app(emulated.device, version=0)
    with pytest.raises(AsrDeployError, match=r"has version 0 of the app, but 1 is required\. Build it .* --apk"):
        opened(emulated).run(task)
    apk = tmp_path / "app.apk"
    apk.write_text("asrdeploy-version 0.1.0 1")
    assert AdbDevice(emulated.phone, AppRunner(apk), HASTY).run(task).error is None
    assert emulated.device.state["packages"][APP]["versionCode"] in (1, "1")
    emulated.device.change(packages={})
    with pytest.raises(AsrDeployError, match="does not have the app"):
        opened(emulated).run(task)


def test_latency_waits_until_the_device_is_cool(emulated: Connected, tiny_int8: Artifact, test_clean: DataSet) -> None:
    with_app(emulated.device)
    emulated.device.run_hot()
    said: list[str] = []
    with pytest.raises(AsrDeployError, match=r"did not cool down within 0 s \(battery too hot: 45 °C, more than 37 °C\)\. Let it cool"):
        opened(emulated).run(latency(tiny_int8, test_clean, limits={"celsius": 37.0}))

    def say(sentence: str) -> None:
        said.append(sentence)
        if "cool down: battery too hot" in sentence:
            emulated.device.cool_down()

    device = AdbDevice(emulated.phone, AppRunner(), replace(HASTY, heat=60.0, cool_down=2.0), say)
    job = latency(tiny_int8, test_clean, limits={"celsius": 37.0})
    result = device.run(job)
    assert result.valid and len(result.timings) == 2 and any("the device to cool down: battery too hot" in each for each in said)
    again = device.run(job)
    assert any("Cooling down" in each for each in said) and again.timings != result.timings


def test_heat_during_the_job_is_a_reason(emulated: Connected, tiny_int8: Artifact, test_clean: DataSet) -> None:
    with_app(emulated.device)
    job = latency(tiny_int8, test_clean, limits={"celsius": 37.0})
    result = opened(emulated).run(job, lambda line: emulated.device.run_hot(41.0, 2))
    assert not result.valid
    assert result.reasons == ("battery too hot after the job: 41 °C, more than 37 °C", "throttled after the job: thermal status 2")


def test_two_devices_at_once(adb_server: AdbServer, emulated: Connected, task: Task, expected: list[str], tmp_path: Path) -> None:
    with_app(emulated.device)
    found: dict[str, list[str]] = {}
    with EmulatedDevice(tmp_path / "other") as other:
        with_app(other)
        phone = connect(adb_server.adb(), other)
        pair = (AdbDevice(emulated.phone, AppRunner(), HASTY), AdbDevice(phone, AppRunner(), HASTY))
        threads = [threading.Thread(target=lambda each=each: found.update({each.name: texts(each.run(task))})) for each in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        disconnect(adb_server.adb(), other)
    assert found == {each.name: expected for each in pair} and len(found) == 2


def test_the_shells_way_needs_the_right_processor(emulated: Connected, task: Task) -> None:
    properties = emulated.device.state["properties"] | {"ro.product.cpu.abi": "x86_64"}
    emulated.device.change(properties=properties)
    with pytest.raises(AsrDeployError, match=r"--via shell requires arm64-v8a, but .* is x86_64\. Use --via app"):
        AdbDevice(emulated.phone, ShellRunner(), HASTY).run(task)


@pytest.mark.slow
@pytest.mark.parametrize("via", ["app", "shell"])
def test_both_ways_hear_what_this_machine_hears(via: str, emulated: Connected, task: Task, expected: list[str]) -> None:
    """Run the app as benchcore on the JVM, and the shell as the Arm bundle under qemu, both on files pushed through adb."""
    with_app(emulated.device, "java", "-jar", str(benchcore_jar()))
    emulated.device.change(environment={"ASRDEPLOY_LAUNCHER": " ".join(qemu_launcher())})
    lines: list[str] = []
    device = AdbDevice(emulated.phone, AppRunner() if via == "app" else ShellRunner(), HASTY)
    result = device.run(task, lambda line: lines.append(line.id))
    assert texts(result) == expected and lines == [each.id for each in task.job.audio]
    assert (result.runner, result.device.kind) == (("jvm", "phone") if via == "app" else ("python", "emulated"))


# State that Android reports


def test_kinds() -> None:
    assert kind_of({"ro.hardware": "ranchu"}) == kind_of({"ro.kernel.qemu": "1"}) == kind_of({"ro.boot.qemu": "1"}) == "emulator"
    assert kind_of({"ro.hardware": "tensor"}) == kind_of({}) == "phone"


def test_states_of_real_phones() -> None:
    battery = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  level: 83\n  scale: 100\n  temperature: 312\n"
    thermal = "Thermal Status: 1\nCurrent temperatures from HAL:\n\tTemperature{mValue=38.5, mType=3, mName=VIRTUAL-SKIN, mStatus=1}\n"
    found = parse_state(battery, thermal, "mWakefulness=Dozing\n")
    assert (found.battery_celsius, found.battery_percent, found.charging, found.screen_on) == (31.2, 83, True, False)
    assert (found.thermal_status, found.celsius) == (1, {"VIRTUAL-SKIN": 38.5})
    nothing = parse_state("", "", "")
    assert nothing.battery_celsius is nothing.charging is nothing.thermal_status is None
    assert merged(found.model_copy(update={"kilohertz": (5,), "celsius": {}}), found).kilohertz == (5,)
    assert merged(nothing, found) == found


# Random faults

FAULTS = 300  # in a thousand, which took 80 s, the errors were of the same kinds


@pytest.mark.slow
def test_hundreds_of_random_faults_end_in_a_clear_error_or_a_right_result(
    adb_server: AdbServer, task: Task, expected: list[str], tmp_path: Path
) -> None:
    """Inject faults into single messages between adb and the device, and count results, errors and hangs."""
    faults, results, errors, started = 0, 0, [], time.monotonic()
    short = Task(task.job.model_copy(update={"audio": task.job.audio[:3]}), task.files)
    patience = replace(HASTY, connection=20.0)
    for seed in range(FAULTS):
        with EmulatedDevice(tmp_path / str(seed)) as device:
            with_app(device)
            phone = connect(adb_server.adb(), device)
            device.random_faults(seed, 0.05)
            try:
                result = AdbDevice(phone, AppRunner(), patience).run(short)
                assert texts(result) == expected[:3] and result.device.model == "Folder Emulated One (F1)"
                assert result.before.battery_celsius == 29.0
                results += 1
            except AsrDeployError as error:
                errors.append(str(error))
                assert str(error).endswith(".")
            device.random_faults(0, 0.0)
            faults += sum(device.fault_counts.values())
            disconnect(adb_server.adb(), device)
        if faults >= FAULTS:
            break
    print(f"{faults} faults, {results} right results, {len(errors)} errors in {time.monotonic() - started:.0f} s", set(errors))
    assert faults >= FAULTS and results > len(errors)
