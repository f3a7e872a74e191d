"""Test phones through the real adb clients and servers, with an emulated device that fails on demand."""

import hashlib
import importlib.util
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from device_runner.phone.adb import SERVER_VARIABLE, Adb, CommandFailed, DeviceLost, find_adb, quoted
from device_runner.phone.adb_output import EXITED, parse_free_bytes, parse_properties
from tests.device_runner.phone.emulated_device.device import EmulatedDevice
from tests.device_runner.phone.emulated_device.fixtures import Connected, connect, disconnect
from tests.device_runner.phone.emulated_device.server import AdbServer

TMP = "/data/local/tmp"
BENCH = "org.asrdeploy.bench"
SOON = 60.0  # seconds; only a failing test waits this long
FEW = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NASTY = [
    "",
    " ",
    "'",
    '"',
    "\\",
    "$HOME",
    "`id`",
    "$(id)",
    "a;b",
    "a&b",
    "|",
    ">x",
    "*",
    "~",
    "#",
    "!",
    "a\nb",
    "\t",
    "\r\n",
    "%s",
    "-n",
    "é…",
    "\x01",
]


def program_of(which: str) -> Path:
    if which == "path":
        found = shutil.which("adb")
        assert found, "apt-get install adb"
        return Path(found)
    spec = importlib.util.find_spec("adbutils")
    assert spec and spec.submodule_search_locations, "pip install adbutils"
    return Path(spec.submodule_search_locations[0]) / "binaries" / "adb"


@pytest.fixture(scope="module", params=["path", "adbutils"])
def adb_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """Run every test with both clients and both servers."""
    with AdbServer(tmp_path_factory.mktemp("adb"), program=program_of(request.param)) as server:
        yield server


def sentence(call: Callable[[], object], kind: type[AsrDeployError] = AsrDeployError) -> str:
    """Return the message of the error that a call raises."""
    with pytest.raises(AsrDeployError) as caught:
        call()
    assert type(caught.value) is kind, repr(caught.value)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


# The list of devices


def test_devices_are_listed_with_their_model(emulated: Connected) -> None:
    mine = next(each for each in emulated.phone.adb.devices() if each.serial == emulated.serial)
    assert (mine.state, mine.details["model"], mine.details["product"]) == ("device", "Emulated_One", "emulated")
    assert mine.details["transport_id"].isdecimal()
    assert parse_properties(emulated.phone.shell("getprop")) == emulated.device.state["properties"]


def test_the_server_is_that_of_the_variable(emulated: Connected, adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, adb_server.socket)
    adb = Adb(adb_server.program)
    assert adb.server == adb_server.socket and emulated.serial in {each.serial for each in adb.devices()}


def test_two_devices_at_once(emulated: Connected, tmp_path: Path) -> None:
    adb = emulated.phone.adb
    with EmulatedDevice(tmp_path / "other") as other, ThreadPoolExecutor(8) as pool:
        phones = (emulated.phone, connect(adb, other))
        said = list(pool.map(lambda number: phones[number % 2].shell(f"echo {number} >>{TMP}/{number}; cat {TMP}/{number}"), range(16)))
        assert said == [f"{number}\n" for number in range(16)]
        assert {each.name for each in other.local(TMP).iterdir()} == {str(number) for number in range(1, 16, 2)}
        emulated.device.drop()
        assert phones[1].shell("echo still here") == "still here\n"
        disconnect(adb, other)


# Commands


def test_commands_and_their_codes(emulated: Connected) -> None:
    phone = emulated.phone
    assert phone.shell("echo out; echo err >&2; printf last") == "out\nerr\nlast"
    assert phone.shell(":") == ""
    for command, code, output in [("echo no; exit 7", 7, "no\n"), ("exit 255", 255, ""), ("false", 1, "")]:
        with pytest.raises(CommandFailed) as caught:
            phone.shell(command)
        assert (caught.value.code, caught.value.output) == (code, output)
    assert "exited with code 137" in sentence(lambda: phone.shell("kill -9 $$"), CommandFailed)
    assert "exited with code 2" in sentence(lambda: phone.shell("if ("), CommandFailed)
    assert "exited with code 127" in sentence(lambda: phone.shell("no-such-program"), CommandFailed)
    assert phone.shell("cat") == ""  # the command does not read our standard input


def test_output_that_is_not_text_or_looks_like_a_mark(emulated: Connected) -> None:
    assert emulated.phone.shell(r"printf 'a\377\000b'") == "a\ufffd\0b"
    marks = f"{EXITED}:0123456789abcdef:3:\n{EXITED}:$?:"
    assert emulated.phone.shell(quoted("printf", "%s", marks)) == marks
    assert EXITED in emulated.phone.shell("cat /proc/$PPID/cmdline")  # the command line of the outer shell contains our own command
    assert len(emulated.phone.shell("head -c 3000000 /dev/zero")) == 3_000_000


@FEW
@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=10, max_size=30))
def test_quoted_words_arrive_as_they_are(emulated: Connected, words: list[str]) -> None:
    words = [*NASTY, *words]
    assert emulated.phone.shell(quoted("printf", r"%s\000", *words)).split("\0") == [*words, ""]


def test_a_long_command(emulated: Connected) -> None:
    word = "x" * 64_900
    assert emulated.phone.shell(quoted("printf", "%s", word)) == word
    assert "longer than adb's limit of 65000 bytes" in sentence(lambda: emulated.phone.shell(f"echo {word * 2}"))


def test_a_device_that_dies_in_a_command(emulated: Connected) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(emulated.phone.shell, f"echo some; touch {TMP}/begun; sleep 600", seconds=SOON)
        until(emulated.device.local(f"{TMP}/begun").exists)
        emulated.device.drop()
        assert "Check its cable or network" in sentence(running.result, DeviceLost)


def test_a_connection_that_ends_anywhere_never_cuts_an_answer(emulated: Connected) -> None:
    outcomes = set()
    for number in range(1, 12):
        emulated.device.drop_at_message(number)
        try:
            outcomes.add(emulated.phone.shell("echo one; echo two"))
        except DeviceLost:
            outcomes.add("lost")
        emulated.device.faults.drop_at_message(10**9)
        emulated.phone.wait(SOON)
    assert outcomes <= {"one\ntwo\n", "lost"} and "lost" in outcomes


def test_a_job_in_the_background_outlives_the_connection(emulated: Connected) -> None:
    waiting = f"while [ ! -e {TMP}/go ]; do sleep 0.02; done; echo $PPID >{TMP}/done"
    emulated.phone.shell(f"setsid {quoted('sh', '-c', waiting)} </dev/null >/dev/null 2>&1 &")
    emulated.device.drop()
    emulated.phone.wait(SOON)
    emulated.phone.shell(f"touch {TMP}/go")
    until(emulated.device.local(f"{TMP}/done").exists)


def test_a_device_that_is_too_slow(emulated: Connected, tmp_path: Path) -> None:
    (tmp_path / "a.apk").write_text("asrdeploy-version 1")
    emulated.device.slow(600)
    started = time.monotonic()
    assert "did not finish “echo x” within 0.3 s" in sentence(lambda: emulated.phone.shell("echo x", seconds=0.3), DeviceLost)
    for call in (
        lambda: emulated.phone.push(tmp_path / "a.apk", f"{TMP}/a", seconds=0.3),
        lambda: emulated.phone.pull(f"{TMP}/a", tmp_path / "a", seconds=0.3),
        lambda: emulated.phone.install(tmp_path / "a.apk", seconds=0.3),
    ):
        assert "within 0.3 s" in sentence(call, DeviceLost)
    sentence(lambda: emulated.phone.wait(0.5), DeviceLost)
    assert time.monotonic() - started < SOON
    emulated.device.slow(0)
    emulated.phone.wait(SOON)


def test_phones_may_be_used_by_several_threads(emulated: Connected) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: emulated.phone.shell(f"echo {n} >{TMP}/{n}"), range(6)))
    assert {each.name for each in emulated.device.local(TMP).iterdir()} == {str(n) for n in range(6)}


# Connections


def test_a_lost_device_is_connected_anew(emulated: Connected) -> None:
    phone = emulated.phone
    for _ in range(3):
        emulated.device.drop()
        phone.wait(SOON)
        assert phone.shell("echo back") == "back\n"
    emulated.device.refuse(0.5)
    sentence(lambda: phone.shell("echo x"), DeviceLost)
    phone.wait(SOON)
    assert phone.shell("echo back") == "back\n"


def test_devices_that_are_not_there(emulated: Connected, tmp_path: Path) -> None:
    adb = emulated.phone.adb
    (tmp_path / "offline.apk").write_text("asrdeploy-version 1")
    for serial in ("R58X", "127.0.0.1:1"):
        phone = adb.phone(serial)
        for call in (
            lambda: phone.shell("echo x"),  # noqa: B023
            lambda: phone.push(tmp_path / "offline.apk", f"{TMP}/x"),  # noqa: B023
            lambda: phone.pull(f"{TMP}/x", tmp_path / "x", seconds=SOON),  # noqa: B023
            lambda: phone.install(tmp_path / "offline.apk"),  # noqa: B023
            lambda: phone.wait(0.2),  # noqa: B023
        ):
            assert f"{serial} is not connected (not found, " in sentence(call, DeviceLost)


def test_a_device_that_does_not_trust_this_computer(adb_server: AdbServer, tmp_path: Path) -> None:
    adb = adb_server.adb()
    with EmulatedDevice(tmp_path / "device", authorised=False) as device:
        phone = adb.phone(device.serial)
        with pytest.raises(DeviceLost):
            phone.wait(0.3)
        until(lambda: [each.state for each in adb.devices() if each.serial == device.serial] == ["unauthorized"])
        assert "Unlock it and allow USB debugging" in sentence(lambda: phone.wait(0.3), DeviceLost)
        assert "Unlock it and allow USB debugging" in sentence(lambda: phone.shell("echo x"), DeviceLost)
        device.authorise()
        phone.wait(SOON)
        disconnect(adb, device)


# Files


def test_files_there_and_back(emulated: Connected, tmp_path: Path) -> None:
    for name, size in (("empty", 0), ("one", 1), ("chunk", 65536), ("big", 5_000_003)):
        local = tmp_path / name
        local.write_bytes(random.Random(size).randbytes(size))
        remote = f"{TMP}/a folder/é {name}"
        emulated.phone.push(local, remote)
        assert emulated.phone.shell(quoted("sha256sum", remote)).startswith(hashlib.sha256(local.read_bytes()).hexdigest())
        back = tmp_path / "back" / name
        emulated.phone.pull(remote, back)
        assert back.read_bytes() == local.read_bytes() and list(back.parent.glob(".*")) == []
    emulated.phone.push(tmp_path / "back", f"{TMP}/whole")
    assert (emulated.device.local(f"{TMP}/whole/big")).stat().st_size == 5_000_003


def test_a_lost_transfer_leaves_the_local_file_as_it_was(emulated: Connected, tmp_path: Path) -> None:
    local, back = tmp_path / "local", tmp_path / "there" / "back"
    local.write_bytes(os.urandom(3_000_000))
    back.parent.mkdir()
    back.write_text("old")
    for count in (10, 50, 150, 400, 1_000_000):
        emulated.device.drop_after_bytes(count)
        sentence(lambda: emulated.phone.push(local, f"{TMP}/x"), DeviceLost)
        emulated.phone.wait(SOON)
    emulated.phone.push(local, f"{TMP}/x")
    for count in (10, 50, 150, 400, 1_000_000):
        emulated.device.drop_after_bytes(count)
        sentence(lambda: emulated.phone.pull(f"{TMP}/x", back, seconds=SOON), DeviceLost)
        assert back.read_text() == "old" and list(back.parent.iterdir()) == [back]
        emulated.phone.wait(SOON)
    emulated.phone.pull(f"{TMP}/x", back)
    assert back.read_bytes() == local.read_bytes()


def test_refused_transfers(emulated: Connected, tmp_path: Path) -> None:
    phone, local = emulated.phone, tmp_path / "offline"
    local.write_bytes(bytes(300_000))
    assert "Permission denied" in sentence(lambda: phone.push(local, "/system/bin/x"))
    assert "Cannot read" in sentence(lambda: phone.push(tmp_path / "none", f"{TMP}/x"))
    assert "has no readable file /data/local/tmp/none" in sentence(lambda: phone.pull(f"{TMP}/none", tmp_path / "x"))
    assert "No such file" in sentence(lambda: phone.pull(f"{TMP}/none", tmp_path / "x", seconds=SOON))
    assert "Cannot pull" in sentence(lambda: phone.pull(TMP, tmp_path / "x"))
    assert "Cannot write" in sentence(lambda: phone.pull(f"{TMP}/x", local / "x", seconds=SOON))
    assert not (tmp_path / "x").exists() and list(tmp_path.glob(".*")) == []


def test_a_full_disk(emulated: Connected, tmp_path: Path) -> None:
    phone, local = emulated.phone, tmp_path / "big"
    local.write_bytes(bytes(3_000_000))
    assert parse_free_bytes(phone.shell(quoted("df", "-k", TMP)), TMP) > 0
    emulated.device.fill_disk(1_000_000)
    assert parse_free_bytes(phone.shell(quoted("df", "-k", TMP)), TMP) == 1_000_000 // 1024 * 1024
    assert "No space left on device" in sentence(lambda: phone.push(local, f"{TMP}/x"))
    assert phone.shell(f"ls {TMP}") == ""
    emulated.device.empty_disk()
    phone.push(local, f"{TMP}/x")
    assert "No such file" in sentence(lambda: parse_free_bytes(phone.shell(quoted("df", "-k", f"{TMP}/none")), TMP), CommandFailed)


# Apps


@pytest.mark.parametrize("streamed", [True, False])
def test_apps_are_installed_or_refused(streamed: bool, adb_server: AdbServer, tmp_path: Path) -> None:
    adb = adb_server.adb()
    apk, text, other = tmp_path / "Success.apk", tmp_path / "Failure.apk", tmp_path / "other.zip"
    with zipfile.ZipFile(apk, "w") as archive:
        archive.writestr("asrdeploy-version", "1.2.3 45")
        archive.writestr("classes.dex", os.urandom(200_000))
    text.write_text("asrdeploy-version 2.0 46 org.example.other")
    features = ("shell_v2", "stat_v2", *(("cmd",) if streamed else ()))
    with EmulatedDevice(tmp_path / "device", features=features) as device:
        phone = connect(adb, device)
        phone.install(apk)
        phone.install(text)
        assert {name: (each["versionName"], str(each["versionCode"])) for name, each in device.state["packages"].items()} == {
            BENCH: ("1.2.3", "45"),
            "org.example.other": ("2.0", "46"),
        }
        assert phone.shell(f"pm path {BENCH}") == f"package:/data/app/{BENCH}/base.apk\n"
        assert "versionCode=45" in phone.shell(f"dumpsys package {BENCH}")
        device.change(install_failure="INSTALL_FAILED_VERSION_DOWNGRADE: Package [a] is newer")
        assert "refused to install Success.apk: INSTALL_FAILED_VERSION_DOWNGRADE: Package [a] is newer" in sentence(
            lambda: phone.install(apk)
        )
        text.write_text("no app")
        assert "refused to install Failure.apk: INSTALL_PARSE_FAILED_NOT_APK" in sentence(lambda: phone.install(text))
        assert "There is no app" in sentence(lambda: phone.install(tmp_path / "none.apk"))
        other.write_text("")
        assert "is not an .apk file" in sentence(lambda: phone.install(other))
        device.fill_disk(1000)
        assert any(word in sentence(lambda: phone.install(apk)) for word in ("INSTALL_FAILED_INSUFFICIENT_STORAGE", "No space left"))
        device.empty_disk()
        for count in (10, 60, 200, 100_000):
            device.drop_after_bytes(count)
            sentence(lambda: phone.install(apk), DeviceLost)
            phone.wait(SOON)
        disconnect(adb, device)


# Finding adb


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_adb_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_adb().program == program_of("path")
    assert find_adb(program_of("adbutils")).version.startswith("36.")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_adb().program == program_of("adbutils")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "apt-get install adb" in sentence(find_adb)
    assert "There is no program" in sentence(lambda: find_adb(tmp_path / "adb"))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("echo Android Debug Bridge version 1.0.39; echo Version 0.0.1", "too old (required: 1.0.41, platform-tools 28)"),
        ("echo Android Debug Bridge version 1.0.41; echo Version 27.0.1-debian", "is version 27.0.1-debian, which is too old"),
        ("echo hello", "is not Android's adb"),
        ("exit 1", "is not Android's adb"),
    ],
)
def test_programs_that_are_no_adb_or_too_old(said: str, words: str, tmp_path: Path) -> None:
    program = script(tmp_path / "adb", said)
    assert words in sentence(lambda: find_adb(program))


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "adb").write_bytes(b"\x7fELF")
    (tmp_path / "adb").chmod(0o755)
    assert "Cannot run" in sentence(lambda: Adb(tmp_path / "adb"))


def test_an_adb_whose_server_does_not_answer(tmp_path: Path) -> None:
    adb = Adb(
        script(tmp_path / "adb", '[ "$1" = version ] && echo Android Debug Bridge version 1.0.41 || { echo "error: no" >&2; exit 1; }')
    )
    assert "cannot list its devices (no)" in sentence(adb.devices)
    assert adb.version == "1.0.41"
