"""`asrdeploy doctor`: what it reports of this machine, and the commands that install missing parts."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from device_runner.contract import DeviceFacts
from device_runner.errors import AsrDeployError
from device_runner.facts import device_facts
from device_runner.phone.adb import find_adb
from device_runner.phone.arm_bundle import build_bundle, layers
from tests.helpers import REPOSITORY, Completed, complaint, run_command
from tests.toolchain.doctor.parts import free_port, rows, script
from toolchain import extras
from toolchain.doctor import checks, probes
from toolchain.doctor.checks import DEBIAN, EXTRAS, OLDEST_JDK, Report, Row, examine

pytestmark = pytest.mark.usefixtures("no_adb_server")
NAMES = [
    *("Python", "CPU", "memory", "cache", "this folder", "torch", "onnxruntime", "executorch", "extra toolchain"),
    *("extra ray", "extra phones", "extra training", "extra docs", "adb", "devices", "JDK", "Maven", "qemu", "Arm bundle"),
]


def run(cwd: Path, *arguments: object, **environment: str) -> tuple[Completed, Report]:
    """Run the command and read its JSON report."""
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
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked})); sys.argv[1:] = ['doctor']; from toolchain.cli.main import main; main()"
    )
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
    pins = probes.pinned()
    assert {"torch", "onnxruntime", "executorch"} <= pins.keys() and all(f'"{name}=={version}' in text for name, version in pins.items())


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_command_of_an_extra(extra: str) -> None:
    lacking = checks.extra_row(extra, dict.fromkeys(EXTRAS[extra]), adb=None)
    assert lacking.state == "missing" and lacking.command is not None and lacking.needed_by
    words = shlex.split(lacking.command)
    assert words[1:] == ["-m", "pip", "install", f"asrdeploy[{extra}]"]
    assert Path(shutil.which(words[0]) or words[0]).absolute() == Path(sys.executable)


def test_the_extra_phones_is_not_missed_where_another_adb_is() -> None:
    assert checks.extra_row("phones", {"adbutils": None}, adb="/usr/bin/adb").state == "note"


def test_setup_knows_what_the_bundle_is_told_by(tmp_path: Path) -> None:
    row = checks.bundle_row(tmp_path / "nowhere")
    assert (row.state, row.command) == ("missing", "asrdeploy setup arm64") and not (tmp_path / "nowhere").exists()
    assert "Did you mean arm64?" in complaint(run_command("setup", "arm46", cwd=tmp_path))


def test_a_command_where_asrdeploy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "installed", lambda name: None)
    assert shlex.split(extras.asrdeploy_command("ray"))[-2:] == ["-e", f"{REPOSITORY}[ray]"]


@pytest.mark.parametrize("debian", [True, False])
def test_nothing_on_the_path(programs: Path, monkeypatch: pytest.MonkeyPatch, debian: bool) -> None:
    if debian:
        script(programs, "apt-get", "exit 1")
    monkeypatch.setattr(checks, "bundled_adb", lambda: None)
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
    assert found["devices"].state == "note" and found["devices"].found.endswith("devices require adb")


def test_the_adb_of_the_package(programs: Path) -> None:
    row = rows(examine())["adb"]
    assert row.state == "ok" and row.found.endswith("adb (in the package adbutils)")


# The Arm bundle


def test_the_bundle_that_is_built_is_found(tmp_path: Path) -> None:
    bundle = build_bundle()
    row = checks.bundle_row(bundle.parent)
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
        assert checks.bundle_row(folder).state == "missing"


def test_the_bundle_where_asrdeploy_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "arm64-0").mkdir()
    (tmp_path / "arm64-0" / "python").write_text('runtime=$(cd "$here/../arm64-runtime-0" && pwd)\n')
    (tmp_path / "arm64-runtime-0").mkdir()
    (tmp_path / "arm64-runtime-0" / "packages.json").write_text("{}")
    version = metadata.version

    def lacking(name: str) -> str:
        if name == "asrdeploy":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", lacking)
    row = checks.bundle_row(tmp_path)
    assert row.state == "note" and "asrdeploy is not installed here" in row.found
    with pytest.raises(AsrDeployError, match=r"^asrdeploy is not installed here, .* Reinstall asrdeploy\.$"):
        build_bundle(tmp_path)


def test_the_bundle_on_a_system_that_is_no_debian(programs: Path, tmp_path: Path) -> None:
    row = checks.bundle_row(tmp_path / "cache")
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
    row = checks.cpu_row(machine, usable=4)
    assert row.state == state and "4 of 8 cores" in row.found and ("+reduce_range" in row.found) == (state == "note")


def test_memory() -> None:
    assert checks.memory_row(32 * 10**9, 20 * 10**9, None).found == "32.0 GB, 20.0 GB free"
    limited = checks.memory_row(32 * 10**9, 20 * 10**9, 4 * 10**9)
    assert limited.state == "note" and "limited to 4.0 GB" in limited.found
    assert checks.memory_row(32 * 10**9, None, 2**63).state == "ok"


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ROOM", 1)
    assert checks.disk_row("cache", tmp_path / "not" / "yet").state == "ok" and not (tmp_path / "not").exists()
    (tmp_path / "file").touch()
    assert "cannot be written" in checks.disk_row("cache", tmp_path / "file" / "cache").found
    monkeypatch.setattr(checks, "ROOM", 2**63)
    assert checks.disk_row("cache", tmp_path).state == "note"


def test_only_what_is_missing_has_a_command() -> None:
    with pytest.raises(ValidationError):
        Row(name="any", state="ok", found="there", command="true")
