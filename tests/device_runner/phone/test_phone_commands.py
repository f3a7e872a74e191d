"""Test commands on an emulated phone (`devices`, and `evaluate`, `bench`, `transcribe` and `test` with `--device`) and job files."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from device_runner.artifact import Artifact
from device_runner.phone.transfers import ROOT
from tests.device_runner.phone.emulated_device.fixtures import Connected
from tests.device_runner.phone.emulated_device.server import AdbServer
from tests.device_runner.phone.phone_parts import accuracy, opened, with_app
from tests.helpers import REPOSITORY, Completed, complaint
from toolchain.data.datasets import DataSet


@pytest.fixture
def reached(emulated: Connected, adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connected]:
    """Return an emulated phone for commands, which use the adb server of the tests."""
    monkeypatch.setenv("ASRDEPLOY_ADB_SERVER", adb_server.socket)
    with_app(emulated.device)
    yield emulated


def test_devices_are_listed(reached: Connected, cli: Callable[..., Completed]) -> None:
    shown = cli("devices").stdout
    assert "local" in shown and "qemu-arm64" in shown
    row = shown[shown.index(reached.serial) :]  # its row is the last one
    assert all(word in row for word in ("phone", "ready", "Folder", "One", "arm64-v8a", "Android", "version 1"))


def test_a_phone_is_evaluated_by_command(reached: Connected, cli: Callable[..., Completed], tiny_int8: Artifact, tmp_path: Path) -> None:
    command = ("evaluate", tiny_int8.folder, "--limit", 5, "-o", "there", "--device", reached.serial)
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    cli("evaluate", tiny_int8.folder, "--limit", 5, "-o", "here")
    heard = [[json.loads(line)["hypothesis"] for line in (tmp_path / name / "transcripts.jsonl").open()] for name in ("here", "there")]
    assert heard[0] == heard[1] and len(heard[0]) == 5
    result = json.loads((tmp_path / "there" / "result.json").read_text())
    assert (result["device"], result["kind"], result["machine"]["runner"]) == (reached.serial, "phone", "python")
    reached.device.refuse(60)
    assert cli(*command).stdout == done.stdout  # repeating the command does not need the device


def test_a_phone_is_benched_and_transcribes_by_command(
    reached: Connected, cli: Callable[..., Completed], tiny_int8: Artifact, tiny_fp32: Artifact, speech: tuple, tmp_path: Path
) -> None:
    arguments = ("--seconds", "0.5", "--protocol", "quick", "--rounds", 2, "-o", "out", "--device", reached.serial)
    reached.device.change(
        properties=reached.device.state["properties"] | {"ro.kernel.qemu": "1"}
    )  # an emulator does not cool down between jobs
    done = cli("bench", tiny_int8.folder, tiny_fp32.folder, *arguments)
    assert done.returncode == 0, done.stderr
    assert "function only" in done.stdout.replace("\n", " ") and "say nothing about a phone" in done.stderr
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("bench-*.json"))]
    assert [each["artifact"]["scheme"] for each in results] == ["fp32", "int8"]
    assert all(each["facts"]["kind"] == "emulator" and len(each["states"]) == 2 and not each["valid"] for each in results)
    heard = cli("transcribe", tiny_int8.folder, speech[0].path, speech[0].path, "--device", reached.serial)
    assert heard.stdout.count(speech[0].reference) == 2 or heard.stdout.count(f"{speech[0].path}: ") == 2


def test_mistakes_about_devices(reached: Connected, cli: Callable[..., Completed], tiny_int8: Artifact) -> None:
    assert "Unknown device “lokal”. Did you mean local?" in complaint(cli("bench", tiny_int8.folder, "--device", "lokal"))
    assert "--via air is unknown. Use app or shell." in complaint(
        cli("bench", tiny_int8.folder, "--device", reached.serial, "--via", "air")
    )
    assert "DIGITS_ASR_TINY is not an artifact, and " in complaint(cli("evaluate", "DIGITS_ASR_TINY", "--device", reached.serial))
    assert "There is no program nowhere" in complaint(cli("devices", "--adb", "nowhere"))
    assert "Did you mean arm64?" in complaint(cli("setup", "arm46"))


def test_what_jobs_left_is_removed(reached: Connected, cli: Callable[..., Completed], tiny_int8: Artifact, test_clean: DataSet) -> None:
    opened(reached).run(accuracy(tiny_int8, test_clean, 2))
    assert (reached.folder / ROOT.lstrip("/")).is_dir()
    assert cli("devices", "--clean", reached.serial).returncode == 0
    assert not (reached.folder / ROOT.lstrip("/")).exists()


JOBS = """
[[job]]
name = "int8 of the bundled model"
artifact = "{artifact}"
limit = 4
protocol = "quick"
seconds = [0.5]
[job.limits]
wer = {wer}
artifact_mb = 2.5
c_size = 0.4
p90_ms = 5000
real_time_factor = 9
peak_memory_mb = 500
parity = 0.5
"""


def test_jobs_are_tested_by_command(reached: Connected, cli: Callable[..., Completed], tiny_int8: Artifact, tmp_path: Path) -> None:
    (tmp_path / "jobs.toml").write_text(JOBS.format(artifact=tiny_int8.folder, wer=20))
    done = cli("test", "jobs.toml", "--device", reached.serial, "--junit", "report.xml", "-o", "out", "--cool-down", 0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" met ") == 7
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()[0]
    assert suite.get("tests") == "7" and suite.get("failures") == suite.get("errors") == suite.get("skipped") == "0"
    # Times of an emulator are not judged. An exceeded limit gives exit code 1.
    reached.device.change(properties=reached.device.state["properties"] | {"ro.kernel.qemu": "1"})
    (tmp_path / "jobs.toml").write_text(JOBS.format(artifact=tiny_int8.folder, wer=0).replace("c_size = 0.4", "c_size = 0.3"))
    done = cli("test", "jobs.toml", "--device", reached.serial, "--junit", "report.xml", "-o", "out", "--cool-down", 0)
    assert done.returncode == 1 and "EXCEEDED" in done.stdout
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()[0]
    assert suite.get("skipped") == "2" and int(suite.get("failures") or 0) >= 1
    assert any("is emulated" in (each.get("message") or "") for each in suite.iter("skipped"))
    # A job that could not run gives exit code 2, whatever the other jobs give.
    (tmp_path / "jobs.toml").write_text(JOBS.format(artifact="nowhere", wer=20))
    done = cli("test", "jobs.toml", "--device", reached.serial, "--junit", "report.xml", "-o", "out", "--cool-down", 0)
    assert done.returncode == 2 and "could not run" in done.stderr
    assert ElementTree.parse(tmp_path / "report.xml").getroot()[0].get("errors") == "1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("job = [", "is not TOML"),
        ("", "job: Field required"),
        ("[[job]]\nname = 'a'\nartifact = 'a'\n[job.limits]", "a job needs at least one limit"),
        ("[[job]]\nname = 'a'\n[job.limits]\nwer = 3", "a job needs either artifact or export"),
        ("[[job]]\nname = 'a'\nartifact = 'a'\n[job.limits]\nwer = nan", "wer must be a number"),
        ("[[job]]\nname = 'a'\nartifact = 'a'\n[job.limits]\nword_error_rate = 3", "word_error_rate"),
    ],
)
def test_files_of_jobs_that_are_refused(text: str, words: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    (tmp_path / "jobs.toml").write_text(text)
    assert words in complaint(cli("test", "jobs.toml"))
    assert "does not exist" in complaint(cli("test", "none.toml"))


def test_the_ready_jobs_are_valid() -> None:
    from toolchain.scenario.job_limits import read_job_file

    assert all(each.export is not None for each in read_job_file(REPOSITORY / "jobs" / "emulator.toml").job)
