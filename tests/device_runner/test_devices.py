"""Devices on this machine: jobs in new processes, the Arm bundle under qemu, parity between them, and lossless WAV files."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.contract import Job, job_digest, job_text, read_result
from device_runner.device_choice import Choice, open_device
from device_runner.devices import LOCAL, QEMU, ProcessDevice, finished, local_device
from device_runner.engines import open_engine
from device_runner.errors import AsrDeployError
from device_runner.jobs import Task, make_task, wav_bytes
from tests.helpers import Completed, complaint
from toolchain.accuracy.parity import distance_to_torch, distances, fixed_subset, parity
from toolchain.data.datasets import DataSet


@pytest.fixture(autouse=True)
def _own_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give each test its own cache folder, except slow tests, which need the Arm bundle in the usual one."""
    if "slow" not in request.keywords:
        monkeypatch.setenv("ASRDEPLOY_CACHE", str(tmp_path / "cache"))


def accuracy(artifact: Artifact, data: DataSet, count: int) -> Task:
    return make_task(artifact, [(each.id, read_audio(each.path, 16_000)) for each in data.utterances[:count]], mode="accuracy")


# Recordings


@given(arrays.arrays(np.int16, st.integers(1, 400)))
def test_samples_of_16_bit_stay_as_they_are(samples: np.ndarray) -> None:
    waveform = samples.astype(np.float32) / 32768
    content = wav_bytes(waveform, 16_000)
    assert len(content) == 44 + 2 * samples.size and wav_bytes(waveform, 16_000) == content
    found, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    assert rate == 16_000 and np.array_equal(found, waveform)


@given(arrays.arrays(np.float32, st.integers(1, 400), elements=st.floats(-4, 4, width=32)))
def test_other_samples_stay_as_they_are(waveform: np.ndarray) -> None:
    found, rate = soundfile.read(io.BytesIO(wav_bytes(waveform, 22_050)), dtype="float32")
    assert rate == 22_050 and np.array_equal(found, waveform)


def test_a_task_names_its_files_by_what_is_in_them(tiny_int8: Artifact, test_clean: DataSet) -> None:
    task, again = (accuracy(tiny_int8, test_clean, 3) for _ in range(2))
    assert task == again and job_text(task.job) == job_text(again.job)
    assert len(task.files) == 3 + 1 + len(tiny_int8.manifest.files)
    assert task.job.artifact in task.files and all(each.sha256 in task.files for each in task.job.audio)


# Processes of this machine


def test_a_job_leaves_nothing_behind(tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    task = accuracy(tiny_int8, test_clean, 4)
    lines: list[str] = []
    result = local_device().run(task, lambda line: lines.append(line.id))
    assert lines == [each.id for each in task.job.audio] == [each.id for each in result.transcripts]
    assert not [path for path in (tmp_path / "cache" / "jobs").iterdir() if path.is_dir()]


def test_a_killed_runner_is_said_and_gone_on_with(tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    task = accuracy(tiny_int8, test_clean, 60)
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\nfrom device_runner import runner\nplain = runner._hear\n"
        "def hear(*a, **k):\n    time.sleep(0.05)\n    return plain(*a, **k)\nrunner._hear = hear\nsys.exit(runner.main(sys.argv[1:]))\n"
    )
    device = ProcessDevice("local", "host", (sys.executable, str(script)))
    seen: list[str] = []

    def heard(line: object) -> None:
        seen.append(line.id)  # type: ignore[attr-defined]
        if len(seen) == 5:
            found = subprocess.run(["pgrep", "-f", str(script)], capture_output=True, text=True).stdout.split()
            os.kill(int(found[0]), signal.SIGKILL)

    with pytest.raises(AsrDeployError, match="ended with code -9 and without a result: it printed nothing"):
        device.run(task, heard)
    result = local_device().run(task)
    assert 5 <= result.resumed < 60 and [each.id for each in result.transcripts] == [each.id for each in task.job.audio]


def test_the_same_job_twice_at_once(tiny_int8: Artifact, test_clean: DataSet) -> None:
    task = accuracy(tiny_int8, test_clean, 6)
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append([each.hypothesis for each in local_device().run(task).transcripts])) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]


def test_an_error_of_the_job_keeps_what_is_finished(tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    task = accuracy(tiny_int8, test_clean, 5)
    broken = Task(task.job, task.files | {task.job.audio[3].sha256: tiny_int8.model_path})
    with pytest.raises(AsrDeployError, match=rf"^{task.job.audio[3].id}: .* does not match its sha256"):
        local_device().run(broken)
    assert local_device().run(task).resumed == 3


def test_results_of_another_job_are_refused(tiny_int8: Artifact, test_clean: DataSet) -> None:
    result = local_device().run(accuracy(tiny_int8, test_clean, 1))
    with pytest.raises(AsrDeployError, match="returned the result of another job"):
        finished(result, "0" * 64, "SERIAL")


def test_names_of_devices() -> None:
    assert open_device(Choice(LOCAL)).name == LOCAL


def test_a_pte_file_where_there_is_no_executorch(monkeypatch: pytest.MonkeyPatch, tiny_int8: Artifact) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    manifest = tiny_int8.manifest.model_copy(update={"format": "executorch"})
    with pytest.raises(AsrDeployError, match="ExecuTorch is not installed"):
        open_engine(Artifact(tiny_int8.folder, manifest))
    with pytest.raises(AsrDeployError, match=r"has no provider nnapi on this device\. Available providers: cpu"):
        open_engine(tiny_int8, 1, "nnapi")


# Job files


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version"),
        ({"mode": "speed"}, "mode"),
        ({"audio": []}, "audio"),
        ({"threads": 0}, "threads"),
        ({"unheard": 1}, "unheard"),
        ({"artifact": "../x"}, "artifact"),
        ({"audio": [{"id": "a", "sha256": "0" * 64}] * 2}, "same id"),
    ],
)
def test_jobs_that_are_refused(changes: dict, words: str, tmp_path: Path) -> None:
    job = {"version": 1, "mode": "accuracy", "artifact": "0" * 64, "audio": [{"id": "a", "sha256": "0" * 64}]} | changes
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "device_runner", tmp_path / "job.json", tmp_path / "result.json"], capture_output=True, text=True
    )
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "result.json").exists()


def test_a_job_is_named_by_its_bytes(tmp_path: Path) -> None:
    job = Job(mode="accuracy", artifact="0" * 64, audio=({"id": "a", "sha256": "0" * 64},))
    (tmp_path / "job.json").write_text(job_text(job))
    subprocess.run([sys.executable, "-m", "device_runner", tmp_path / "job.json", tmp_path / "result.json"], capture_output=True)
    result = read_result(tmp_path / "result.json")
    assert result.job == job_digest(job_text(job)) and "manifest" in (result.error or "") and not result.valid


# Parity


def test_distances() -> None:
    a = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    assert distances([a], [a]) == (0, 0, 1)
    relative, largest, equal = distances([a, a], [a, a[::-1]])
    assert (largest, equal) == (2, 0.5) and relative == pytest.approx(np.sqrt(10 / 10))
    with pytest.raises(AsrDeployError, match="different shapes"):
        distances([a], [a[:1]])


def test_fp32_here_is_torch(tiny_fp32: Artifact) -> None:
    assert distance_to_torch(tiny_fp32, local_device(), "0") < 1e-5
    assert len({each.id.split("-")[0] for each in fixed_subset()}) >= 6  # speakers


def test_parity_by_command(cli: Callable[..., Completed], tiny_int8: Artifact, tmp_path: Path) -> None:
    done = cli("parity", tiny_int8.folder, "--devices", "local,local", "--json", "parity.json")
    assert done.returncode == 0 and "16 of 16" in done.stdout
    found = json.loads((tmp_path / "parity.json").read_text())
    assert [each["relative"] for each in found] == [0, 0] and not any("seconds" in key for each in found for key in each)
    assert "There is no device to compare" in complaint(cli("parity", tiny_int8.folder, "--devices", ","))


@pytest.mark.slow
def test_arm_code_computes_what_this_machine_computes(tiny_fp32: Artifact) -> None:
    """Compare fp32 only; test_command_line.py compares int8 as the example of `asrdeploy parity`."""
    _, arm = parity(tiny_fp32, [open_device(Choice(LOCAL)), open_device(Choice(QEMU))])
    assert arm.kind == "emulated" and arm.relative <= 1e-5 and arm.equal_arg_max == 1.0, arm
    assert arm.transcripts_equal >= arm.utterances - 1 and arm.wer < 0.1
