"""`asrdeploy doctor` with programs and packages that are missing, broken, silent or not what they claim to be."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import REPOSITORY
from tests.toolchain.doctor.parts import ask, rows, script
from toolchain.cli.environment import doctor as doctor_command
from toolchain.doctor import checks, probes
from toolchain.doctor.checks import Report, examine
from toolchain.doctor.probes import Said, json_lines

pytestmark = pytest.mark.usefixtures("no_adb_server")
ENDLESS = "while :; do echo 0123456789012345678901234567890123456789; done"


# Broken programs


def gone(mark: str) -> bool:
    """Whether no process has ``mark`` in its command line."""
    lines = (path.joinpath("cmdline") for path in Path("/proc").glob("[0-9]*"))
    found = []
    for line in lines:
        try:
            found.append(mark in line.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return not any(found)


def test_an_adb_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LIMIT", 0.5)
    mark = f"1{time.time_ns()}"
    adb = script(tmp_path, "adb", f"sleep {mark}")
    answer = ask(adb, "version")
    row = checks.adb_row(str(adb), answer)
    assert answer.silent and row.state == "note" and "does not answer within 0.5 s" in row.found
    end = time.monotonic() + 60
    while not gone(mark):  # also its child
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_adb_whose_child_keeps_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LIMIT", 0.5)
    assert ask(script(tmp_path, "adb", "sleep 1000 & exit 0")).silent


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("printf '\\033[31mnonsense\\007\\377'", "not Android's adb"),
        ("true", "not Android's adb"),
        ("echo Android Debug Bridge version 1.0.31", "too old"),
        ("echo cannot >&2; exit 3", "failed with exit code 3: cannot"),
        ("kill -SEGV $$", "killed by signal 11"),
        (ENDLESS, "prints endlessly"),
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
        ("echo javac 17.0.9", "note", "but java was not found"),
        ("echo javac 11.0.2", "missing", "11.0.2 is too old: 17 or newer"),
        ("echo no JVM >&2; exit 1", "note", "failed with exit code 1: no JVM"),
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
    assert found["JDK"].found == "javac 21, but java failed with exit code 134" and "not defined correctly" in found["Maven"].found


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
    assert row.command and row.command.endswith(f"onnxruntime=={probes.pinned()['onnxruntime']}")


def test_an_import_that_does_not_end_breaks_nothing() -> None:
    call = Said("python", "", "does not answer within 5 s", silent=True)
    assert checks.broken(None, call) == ()
    assert checks.onnxruntime_row("1.32.0", None, call, None).state == "note"


def test_packages_that_are_not_there() -> None:
    for row, what in (
        (checks.torch_row(None, {}, {}, "2"), "'asrdeploy[toolchain]'"),
        (checks.onnxruntime_row(None, None, ask("true"), "1"), "asrdeploy"),
        (checks.executorch_row(None, "1"), "'asrdeploy[toolchain]'"),
    ):
        assert row.state == "missing" and row.needed_by and row.command and row.command.endswith(f"-m pip install {what}")


def test_the_build_of_torch() -> None:
    build = probes.torch_build()
    assert build["__version__"] == torch.__version__ and build.get("cuda") == torch.version.cuda


def test_what_the_driver_says_is_what_torch_finds() -> None:
    said = json_lines(ask(sys.executable, "-c", probes.CUDA).text)
    assert len(said.get("devices", [])) == torch.cuda.device_count()


GPU = {"driver": 13, "devices": ["H100", "H100"], "why": ""}


@pytest.mark.parametrize(
    ("build", "cuda", "state", "said"),
    [
        ({"__version__": "2.13.0+cpu"}, {}, "ok", "2.13.0+cpu, CPU build"),
        ({"__version__": "2.13.0", "hip": "6.4"}, {}, "ok", "2.13.0, HIP 6.4 build"),
        ({"__version__": "2.13.0", "cuda": "13.0"}, GPU, "ok", "2.13.0, CUDA 13.0 build, 2 CUDA devices: H100"),
        ({"__version__": "2.13.0", "cuda": "13.0"}, GPU | {"driver": 12}, "note", "driver supports CUDA 12, too old"),
        ({"__version__": "2.13.0", "cuda": "13.0"}, {"why": "no NVIDIA driver"}, "ok", "no CUDA device (no NVIDIA driver)"),
        ({"__version__": "2.13.0", "cuda": "13.0"}, {}, "ok", "driver does not answer"),
        ({}, {}, "missing", "is incomplete"),
    ],
)
def test_the_row_of_torch(build: dict[str, str], cuda: dict[str, object], state: str, said: str) -> None:
    row = checks.torch_row("2.13.0", build, cuda, "2.13.0")
    assert row.state == state and said in row.found


def test_another_version_than_the_one_that_is_asked_for() -> None:
    row = checks.executorch_row("1.4.0", "1.4.1")
    assert row.state == "note" and row.found == "1.4.0; asrdeploy requires 1.4.1"
