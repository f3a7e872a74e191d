"""`asrdeploy transcribe` with several files: a bad one is named, and nothing of the others is lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from device_runner.artifact import Artifact
from device_runner.devices import ProcessDevice
from tests.helpers import Completed, hears_ctrl_c
from toolchain.data.datasets import Utterance

Command = Callable[..., Completed]


@pytest.fixture
def files(speech: tuple[Utterance, ...], tmp_path: Path) -> list[str]:
    """Four recordings of which the second is a text and the third is too short."""
    for name, number in (("a.flac", 0), ("d.flac", 1)):
        (tmp_path / name).write_bytes(speech[number].path.read_bytes())
    (tmp_path / "b.wav").write_text("four zero\n")
    soundfile.write(tmp_path / "c.wav", np.full(100, 0.1, np.float32), 16_000)
    return ["a.flac", "b.wav", "c.wav", "d.flac"]


def alone(cli: Command, artifact: Artifact, name: str) -> str:
    return cli("transcribe", artifact.folder, name).stdout.strip()


def test_a_bad_file_is_named_and_the_others_are_transcribed(cli: Command, tiny_int8: Artifact, files: list[str]) -> None:
    expected = {name: alone(cli, tiny_int8, name) for name in ("a.flac", "d.flac")}
    done = cli("transcribe", tiny_int8.folder, *files, "--json", "-")
    assert done.returncode == 2
    entries = json.loads(done.stdout)
    assert [each["file"] for each in entries] == files
    assert {each["file"]: each["text"] for each in entries if "text" in each} == expected
    errors = {each["file"]: each["error"] for each in entries if "error" in each}
    assert errors["b.wav"].startswith("b.wav is a text file") and errors["c.wav"].startswith("c.wav lasts 0.006 s")
    assert all(f"asrdeploy: {each}" in done.stderr for each in errors.values())
    plain = cli("transcribe", tiny_int8.folder, *files)
    assert plain.returncode == 2 and plain.stdout.splitlines() == [f"{name}: {text}" for name, text in expected.items()]


def test_on_a_device_a_bad_file_is_named_and_the_others_are_transcribed(
    cli: Command, tiny_int8: Artifact, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {name: alone(cli, tiny_int8, name) for name in ("a.flac", "d.flac")}
    device = ProcessDevice("elsewhere", "host", (sys.executable, "-m", "device_runner"))
    monkeypatch.setattr("toolchain.cli.evaluation.open_chosen", lambda *options: device)
    done = cli("transcribe", tiny_int8.folder, *files, "a.flac", "--device", "elsewhere", "--json", "-")
    entries = json.loads(done.stdout)
    assert done.returncode == 2 and [each["file"] for each in entries] == [*files, "a.flac"]
    assert [each.get("text") for each in entries] == [expected["a.flac"], None, None, expected["d.flac"], expected["a.flac"]]
    only_bad = cli("transcribe", tiny_int8.folder, "b.wav", "c.wav", "--device", "elsewhere")
    assert only_bad.returncode == 2 and only_bad.stderr.count("asrdeploy: ") == 2 and only_bad.stdout == ""


def test_a_device_that_fails_keeps_what_it_transcribed(
    cli: Command, tiny_int8: Artifact, files: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "runner.py"  # it transcribes, and loses its result
    script.write_text(
        f"import os, subprocess, sys\nsubprocess.run([{sys.executable!r}, '-m', 'device_runner', *sys.argv[1:]])\n"
        "os.remove(sys.argv[2])\nsys.exit(1)\n"
    )
    device = ProcessDevice("elsewhere", "host", (sys.executable, str(script)))
    monkeypatch.setattr("toolchain.cli.evaluation.open_chosen", lambda *options: device)
    done = cli("transcribe", tiny_int8.folder, "a.flac", "b.wav", "d.flac", "--device", "elsewhere", "--json", "-")
    assert done.returncode == 3 and "ended with code 1" in done.stderr
    assert [sorted(each) for each in json.loads(done.stdout)] == [["file", "text"], ["error", "file"], ["file", "text"]]


def test_a_single_bad_file_is_listed_with_its_reason(cli: Command, tiny_int8: Artifact, files: list[str]) -> None:
    done = cli("transcribe", tiny_int8.folder, "b.wav", "--json", "-")
    assert done.returncode == 2 and [sorted(each) for each in json.loads(done.stdout)] == [["error", "file"]]
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_file_given_twice_is_transcribed_twice_and_a_peculiar_one_is_remarked_on(
    cli: Command, tiny_int8: Artifact, files: list[str], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    done = cli("transcribe", tiny_int8.folder, "a.flac", "a.flac", "silent.wav")
    assert done.returncode == 0 and done.stdout.count("a.flac: ") == 2
    assert done.stderr == "asrdeploy: silent.wav is silent: all samples are 0.\n"


def test_names_that_begin_with_a_dash(cli: Command, tiny_int8: Artifact, files: list[str], tmp_path: Path) -> None:
    text = alone(cli, tiny_int8, "a.flac")
    (tmp_path / "-a.flac").write_bytes((tmp_path / "a.flac").read_bytes())
    assert cli("transcribe", tiny_int8.folder, "--", "-a.flac").stdout.strip() == text
    (tmp_path / "-").write_bytes((tmp_path / "a.flac").read_bytes())
    assert cli("transcribe", tiny_int8.folder, "-").stdout.strip() == text


def test_what_was_transcribed_before_ctrl_c_is_printed(tiny_int8: Artifact, files: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asrdeploy", "transcribe", str(tiny_int8.folder), *["a.flac"] * 5000, "--json", "out.json"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert "transcripts are printed. Repeating the command begins again." in errors
    assert process.returncode == 130 and "Traceback" not in errors and first.startswith("a.flac: ")
    entries = json.loads((tmp_path / "out.json").read_text())
    done = [each for each in entries if "text" in each]
    assert len(entries) == 5000 and len(done) >= 1 + rest.count("a.flac: ")
    assert all(each["error"] == "The command ended before this file." for each in entries[len(done) :])
