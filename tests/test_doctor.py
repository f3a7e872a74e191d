"""`asrdeploy doctor`: the real programs of this machine, and what it says where they are missing, broken, silent or something else."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
import torch
from emulated_device.fixtures import Connected
from emulated_device.server import AdbServer
from helpers import REPOSITORY, Completed, complaint, run_command
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from device_runner.adb import find_adb
from device_runner.arm_bundle import build_bundle, layers
from device_runner.contract import DeviceFacts
from device_runner.errors import AsrDeployError
from device_runner.facts import device_facts
from toolchain import doctor, doctor_probes
from toolchain.cli_doctor import doctor as doctor_command
from toolchain.doctor import DEBIAN, EXTRAS, OLDEST_JDK, Report, Row, examine
from toolchain.doctor_probes import Said, adb_devices, json_lines, run_bounded, server_address, server_name

NAMES = [
    *("Python", "CPU", "memory", "cache", "this folder", "torch", "onnxruntime", "executorch", "extra toolchain"),
    *("extra ray", "extra phones", "extra training", "extra docs", "adb", "devices", "JDK", "Maven", "qemu", "Arm bundle"),
]
ENDLESS = "while :; do echo 0123456789012345678901234567890123456789; done"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's adb server is no matter of these tests; and a busy machine is no silent one."""
    monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", f"tcp:localhost:{free_port()}")
    monkeypatch.setattr(doctor_probes, "LIMIT", 120.0)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, empty."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path / "bin"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def script(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
    (folder / name).chmod(0o755)
    return folder / name


def rows(report: Report) -> dict[str, Row]:
    return {row.name: row for row in report.rows}


def ask(*words: object) -> Said:
    return run_bounded(tuple(map(str, words)))


def run(cwd: Path, *arguments: object, **environment: str) -> tuple[Completed, Report]:
    """Run the command and read what it wrote beside."""
    done = run_command("doctor", "--json", "doctor.json", *arguments, cwd=cwd, env=environment)
    return done, Report.model_validate_json((cwd / "doctor.json").read_text())


# This machine


def test_the_programs_of_this_machine(tmp_path: Path) -> None:
    told: list[str] = []
    report = examine(told.append)
    found = rows(report)
    assert list(found) == NAMES and report.broken == ()
    assert report.machine == device_facts() and report.packages["torch"] == metadata.version("torch")
    assert {found[name].state for name in ("adb", "JDK", "Maven", "qemu", "onnxruntime", "executorch", "extra ray", "extra phones")} == {
        "ok"
    }
    assert found["adb"].found == f"{find_adb().version}, {shutil.which('adb')} (on the PATH)"
    assert found["onnxruntime"].found.startswith(f"{metadata.version('onnxruntime')}, providers: ") and "CPU" in found["onnxruntime"].found
    assert found["qemu"].found == shutil.which("qemu-aarch64-static")
    assert found["Python"].found.endswith(f"asrdeploy {metadata.version('asrdeploy')}")
    assert found["torch"].found.startswith(torch.__version__)
    assert found["devices"].state == "note" and "`asrdeploy devices`" in found["devices"].found
    assert "adb" in told[0] and len(told) == 2


def test_the_command(tmp_path: Path) -> None:
    done, report = run(tmp_path, PYTHONWARNINGS="error")
    assert done.returncode == 0 and done.stderr == ""
    commands = {row.command for row in report.rows if row.command}
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.removeprefix("    ") not in commands and len(line) > 80] == []
    assert all(f"    {command}" in lines for command in commands)
    assert all(name in done.stdout for name in NAMES)


def test_it_needs_no_torch_and_no_runtime_in_its_process(tmp_path: Path) -> None:
    blocked = ("torch", "torchaudio", "executorch", "onnx", "onnxruntime", "numpy", "soundfile", "adbutils", "ray")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); sys.argv[1:] = ['doctor']; from toolchain.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and "Arm bundle" in done.stdout and done.stderr == ""


def test_it_changes_nothing(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    (home / "work").mkdir(parents=True)
    surroundings = {"HOME": str(home), "ASRDEPLOY_CACHE": str(home / "cache"), "ASRDEPLOY_ADB_SERVER": f"tcp:localhost:{port}"}
    done = run_command("doctor", cwd=home / "work", env={**surroundings, "XDG_CACHE_HOME": "", "TMPDIR": str(home / "work")})
    assert done.returncode == 0 and str(home / "cache") in done.stdout.replace(" ", "").replace("\n", "")
    assert [path.name for path in home.rglob("*")] == ["work"]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file" in complaint(run_command("doctor", "--json", tmp_path / "file" / "x.json", cwd=tmp_path))


# Commands


def makefile(*lists: str) -> dict[str, str]:
    text = (REPOSITORY / "Makefile").read_text()
    return dict(pair.split("=") for name in lists for pair in re.findall(rf"^{name} := (.*)$", text, re.MULTILINE)[0].split())


def test_the_packages_are_those_of_pyproject_and_the_makefile() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = {name: {re.split(r"[=>\[]", each)[0] for each in project["optional-dependencies"][name]} - {"asrdeploy"} for name in EXTRAS}
    assert {name: set(packages) for name, packages in EXTRAS.items()} == extras
    assert set(project["optional-dependencies"]) == {*EXTRAS, "dev"}
    listed = makefile("ANDROID", "ARM", "ADB")
    assert {*listed.items()} - {*DEBIAN.items()} == {("npm", "npm"), ("mksh", "mksh")}  # the page's and the device's tests need them
    assert {*DEBIAN.items()} <= {*listed.items()}
    wanted = {re.split("[=>]", each)[0] for each in project["dependencies"]}
    assert {"onnxruntime", "numpy"} <= wanted and {"torch", "executorch"} <= EXTRAS["toolchain"].keys()
    build = (REPOSITORY / "android" / "build").read_text()
    assert f"install {DEBIAN['javac']} {DEBIAN['mvn']}" in build and f"-ge {OLDEST_JDK} ]" in build


def test_the_pins_are_those_of_pyproject() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    pins = doctor_probes.pinned()
    assert {"torch", "onnxruntime", "executorch"} <= pins.keys() and all(f'"{name}=={version}' in text for name, version in pins.items())


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_command_of_an_extra(extra: str) -> None:
    lacking = doctor.extra_row(extra, dict.fromkeys(EXTRAS[extra]), adb=None)
    assert lacking.state == "missing" and lacking.command is not None and lacking.needed_by
    words = shlex.split(lacking.command)
    assert words[1:] == ["-m", "pip", "install", f"asrdeploy[{extra}]"]
    assert Path(shutil.which(words[0]) or words[0]).absolute() == Path(sys.executable)


def test_the_extra_phones_is_not_missed_where_another_adb_is() -> None:
    assert doctor.extra_row("phones", {"adbutils": None}, adb="/usr/bin/adb").state == "note"


def test_setup_knows_what_the_bundle_is_told_by(tmp_path: Path) -> None:
    row = doctor.bundle_row(tmp_path / "nowhere")
    assert (row.state, row.command) == ("missing", "asrdeploy setup arm64") and not (tmp_path / "nowhere").exists()
    assert "Did you mean arm64?" in complaint(run_command("setup", "arm46", cwd=tmp_path))


def test_a_command_where_asrdeploy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_probes, "installed", lambda name: None)
    assert shlex.split(doctor_probes.asrdeploy_command("ray"))[-2:] == ["-e", f"{REPOSITORY}[ray]"]


@pytest.mark.parametrize("debian", [True, False])
def test_nothing_on_the_path(programs: Path, monkeypatch: pytest.MonkeyPatch, debian: bool) -> None:
    if debian:
        script(programs, "apt-get", "exit 1")
    monkeypatch.setattr(doctor, "bundled_adb", lambda: None)
    found = rows(examine())
    wanted = {"adb": "adb", "JDK": "javac", "Maven": "mvn", "qemu": "qemu-aarch64-static"}
    for name, program in wanted.items():
        row, command = found[name], found[name].command
        assert row.state == "missing" and row.needed_by
        if debian:
            assert command and command.removeprefix("sudo ") == f"apt-get install {DEBIAN[program]}"
            assert command.startswith("sudo ") == (os.geteuid() != 0)
        elif name == "adb":
            assert command and command.endswith("'asrdeploy[phones]'")
        else:
            assert command is None and DEBIAN[program] in row.found
    assert found["devices"].state == "note" and found["devices"].found.endswith("they take adb")


def test_the_adb_of_the_package(programs: Path) -> None:
    row = rows(examine())["adb"]
    assert row.state == "ok" and row.found.endswith("adb (in the package adbutils)")


# Broken programs


def gone(mark: str) -> bool:
    """Whether no process has these words in its command line."""
    lines = (path.joinpath("cmdline") for path in Path("/proc").glob("[0-9]*"))
    found = []
    for line in lines:
        try:
            found.append(mark in line.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return not any(found)


def test_an_adb_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_probes, "LIMIT", 0.5)
    mark = f"1{time.time_ns()}"
    adb = script(tmp_path, "adb", f"sleep {mark}")
    answer = ask(adb, "version")
    row = doctor.adb_row(str(adb), answer)
    assert answer.silent and row.state == "note" and "does not answer within 0.5 s" in row.found
    end = time.monotonic() + 60
    while not gone(mark):  # its child too
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_adb_whose_child_keeps_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_probes, "LIMIT", 0.5)
    assert ask(script(tmp_path, "adb", "sleep 1000 & exit 0")).silent


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("printf '\\033[31mnonsense\\007\\377'", "not Android's adb"),
        ("true", "not Android's adb"),
        ("echo Android Debug Bridge version 1.0.31", "too old"),
        ("echo cannot >&2; exit 3", "ended with code 3: cannot"),
        ("kill -SEGV $$", "ended by signal 11"),
        (ENDLESS, "prints without an end"),
    ],
)
def test_a_broken_adb(programs: Path, text: str, said: str) -> None:
    adb = script(programs, "adb", text)
    row = rows(examine())["adb"]
    assert row.state == "note" and said in row.found and str(adb) in row.found and row.found.isprintable()


def test_a_program_of_another_machine(programs: Path) -> None:
    (programs / "adb").write_bytes(b"\x7fELF nonsense")
    (programs / "adb").chmod(0o755)
    assert "cannot be run: Exec format error" in rows(examine())["adb"].found


@pytest.mark.parametrize(
    ("javac", "state", "said"),
    [
        ("echo javac 17.0.9", "note", "but java is not here"),
        ("echo javac 11.0.2", "missing", "11.0.2 is too old: 17 or newer"),
        ("echo no JVM >&2; exit 1", "note", "ended with code 1: no JVM"),
        ("echo hello", "note", "says “hello”"),
    ],
)
def test_a_broken_jdk(programs: Path, javac: str, state: str, said: str) -> None:
    script(programs, "apt-get", "exit 1")
    script(programs, "javac", javac)
    row = rows(examine())["JDK"]
    assert (row.state, row.command is not None) == (state, state == "missing") and said in row.found


def test_java_and_maven_that_fail(programs: Path) -> None:
    script(programs, "javac", "echo javac 21")
    script(programs, "java", "exit 134")
    script(programs, "mvn", "echo The JAVA_HOME environment variable is not defined correctly >&2; exit 1")
    found = rows(examine())
    assert found["JDK"].state == found["Maven"].state == "note"
    assert found["JDK"].found == "javac 21, but java ended with code 134" and "not defined correctly" in found["Maven"].found


def test_a_java_home_of_nothing(programs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert str(tmp_path / "jdk") in rows(examine())["JDK"].found
    for name in ("java", "javac"):
        script(tmp_path / "jdk" / "bin", name, f"echo {name} 17")
    assert rows(examine())["JDK"].found == f"17, {tmp_path / 'jdk' / 'bin' / 'javac'}"


# Broken packages


def module(folder: Path, name: str, text: str) -> str:
    (folder / "modules").mkdir(exist_ok=True)
    (folder / "modules" / f"{name}.py").write_text(text)
    return os.pathsep.join((str(folder / "modules"), str(REPOSITORY)))


@pytest.mark.parametrize(("text", "why"), [("raise ImportError('libx.so is not there')", "libx.so"), ("import os; os.abort()", "signal 6")])
def test_numpy_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", module(tmp_path, "numpy", text))
    with pytest.raises(SystemExit) as ended:
        doctor_command(tmp_path / "doctor.json")
    said, report = capsys.readouterr().err, Report.model_validate_json((tmp_path / "doctor.json").read_text())
    assert ended.value.code == 1 and len(report.broken) == 1
    assert said.startswith("asrdeploy: numpy cannot be imported") and why in said and "pip install" in said
    assert rows(report)["onnxruntime"].state == "missing"


@pytest.mark.parametrize(("text", "why"), [("import nowhere", "nowhere"), ("import os; os.kill(os.getpid(), 11)", "signal 11")])
def test_onnxruntime_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str) -> None:
    monkeypatch.setenv("PYTHONPATH", module(tmp_path, "onnxruntime", text))
    report = examine()
    row = rows(report)["onnxruntime"]
    assert report.broken == () and row.state == "missing" and why in row.found
    assert row.command and row.command.endswith(f"onnxruntime=={doctor_probes.pinned()['onnxruntime']}")


def test_an_import_that_does_not_end_breaks_nothing() -> None:
    call = Said("python", "", "does not answer within 5 s", silent=True)
    assert doctor.broken(None, call) == ()
    assert doctor.onnxruntime_row("1.32.0", None, call, None).state == "note"


def test_packages_that_are_not_there() -> None:
    for row, what in (
        (doctor.torch_row(None, {}, {}, "2"), "'asrdeploy[toolchain]'"),
        (doctor.onnxruntime_row(None, None, ask("true"), "1"), "asrdeploy"),
        (doctor.executorch_row(None, "1"), "'asrdeploy[toolchain]'"),
    ):
        assert row.state == "missing" and row.needed_by and row.command and row.command.endswith(f"-m pip install {what}")


def test_the_build_of_torch() -> None:
    build = doctor_probes.torch_build()
    assert build["__version__"] == torch.__version__ and build.get("cuda") == torch.version.cuda


def test_what_the_driver_says_is_what_torch_finds() -> None:
    said = json_lines(ask(sys.executable, "-c", doctor_probes.CUDA).text)
    assert len(said.get("devices", [])) == torch.cuda.device_count()


GPU = {"driver": 13, "devices": ["H100", "H100"], "why": ""}


@pytest.mark.parametrize(
    ("build", "cuda", "state", "said"),
    [
        ({"__version__": "2.13.0+cpu"}, {}, "ok", "2.13.0+cpu, CPU build"),
        ({"__version__": "2.13.0", "hip": "6.4"}, {}, "ok", "2.13.0, HIP 6.4 build"),
        ({"__version__": "2.13.0", "cuda": "13.0"}, GPU, "ok", "2.13.0, CUDA 13.0 build, 2 CUDA devices: H100"),
        ({"__version__": "2.13.0", "cuda": "13.0"}, GPU | {"driver": 12}, "note", "driver is of CUDA 12, too old"),
        ({"__version__": "2.13.0", "cuda": "13.0"}, {"why": "no NVIDIA driver"}, "ok", "no CUDA device (no NVIDIA driver)"),
        ({"__version__": "2.13.0", "cuda": "13.0"}, {}, "ok", "gives no answer"),
        ({}, {}, "missing", "lacks its files"),
    ],
)
def test_the_row_of_torch(build: dict[str, str], cuda: dict[str, object], state: str, said: str) -> None:
    row = doctor.torch_row("2.13.0", build, cuda, "2.13.0")
    assert row.state == state and said in row.found


def test_another_version_than_the_one_that_is_asked_for() -> None:
    row = doctor.executorch_row("1.4.0", "1.4.1")
    assert row.state == "note" and row.found == "1.4.0; asrdeploy asks for 1.4.1"


# adb's server


def test_the_devices_of_a_running_server(adb_server: AdbServer, emulated: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", adb_server.socket)
    row = doctor.devices_row(client=True)
    assert row.state == "ok" and f"{emulated.serial} (ready)" in row.found


def test_a_server_without_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AdbServer(tmp_path / "adb") as server:
        monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", server.socket)
        assert doctor.devices_row(client=True).found == "none connected"


@contextmanager
def listener(answer: bytes | None) -> Iterator[tuple[str, int]]:
    """Something that listens where adb's server would, and says this, or nothing until the end."""
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
    with listener(answer) as address, pytest.raises(AsrDeployError, match="is none"):
        adb_devices(address)


def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_probes, "LIMIT", 0.3)
    with listener(None) as address:
        monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", f"tcp:{address[1]}")
        row = doctor.devices_row(client=True)
    assert row.state == "note" and "does not answer within 0.3 s" in row.found


@pytest.mark.parametrize("name", ["tcp:10.1.2.3:5037", "tcp:farm.example:5037", "localabstract:adb", "tcp:99999", "nonsense", ""])
def test_a_server_elsewhere_is_not_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_address(name) is None
    if name:
        monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", name)
        assert "which is not asked here" in doctor.devices_row(client=True).found


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


# The Arm bundle


def test_the_bundle_that_is_built_is_found(tmp_path: Path) -> None:
    bundle = build_bundle()
    row = doctor.bundle_row(bundle.parent)
    assert row.state == "ok" and row.found == f"built: {bundle}"
    runtime = layers(bundle)[0]
    for changed in ("device_runner/errors.py", "python", None):
        folder = tmp_path / (changed or "versions").replace("/", "-")
        shutil.copytree(bundle, folder / bundle.name)
        (folder / runtime.name).mkdir()
        packages = json.loads((runtime / "packages.json").read_text())
        if changed:
            (folder / bundle.name / changed).write_text("another")
        else:
            packages["wheels"]["numpy"] = "0"
        (folder / runtime.name / "packages.json").write_text(json.dumps(packages))
        assert doctor.bundle_row(folder).state == "missing"


def test_the_bundle_on_a_system_that_is_no_debian(programs: Path, tmp_path: Path) -> None:
    row = doctor.bundle_row(tmp_path / "cache")
    assert row.state == "note" and row.command is None and "Debian" in row.found


# CPU, memory, disk


@pytest.mark.parametrize(
    ("features", "exact", "state"),
    [
        (("avx2",), False, "note"),
        (("avx2", "avx_vnni"), True, "ok"),
        (("avx512f", "avx512_vnni"), True, "ok"),
        (("asimd", "asimddp"), True, "ok"),
        ((), None, "note"),
    ],
)
def test_what_the_features_mean(features: tuple[str, ...], exact: bool | None, state: str) -> None:
    machine = DeviceFacts(
        kind="host", model="X", cpu="X", cpu_features=features, int8_exact=exact, abi="", system="", logical_cpus=8, memory_bytes=1
    )
    row = doctor.cpu_row(machine, usable=4)
    assert row.state == state and "4 of 8 cores" in row.found and ("+reduce_range" in row.found) == (state == "note")


def test_memory() -> None:
    assert doctor.memory_row(32 * 10**9, 20 * 10**9, None).found == "32.0 GB, 20.0 GB free"
    limited = doctor.memory_row(32 * 10**9, 20 * 10**9, 4 * 10**9)
    assert limited.state == "note" and "limited to 4.0 GB" in limited.found
    assert doctor.memory_row(32 * 10**9, None, 2**63).state == "ok"


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM", 1)
    assert doctor.disk_row("cache", tmp_path / "not" / "yet").state == "ok" and not (tmp_path / "not").exists()
    (tmp_path / "file").touch()
    assert "cannot be written" in doctor.disk_row("cache", tmp_path / "file" / "cache").found
    monkeypatch.setattr(doctor, "ROOM", 2**63)
    assert doctor.disk_row("cache", tmp_path).state == "note"


def test_only_what_is_missing_has_a_command() -> None:
    with pytest.raises(ValidationError):
        Row(name="any", state="ok", found="there", command="true")
