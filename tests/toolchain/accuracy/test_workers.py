"""Workers: transcripts are the same for any kind and number of workers, and any order."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from device_runner.artifact import MANIFEST, Artifact
from device_runner.engines import Engine
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts, usable_cpus
from device_runner.transcripts import Timing, Transcript
from tests.helpers import Completed, complaint, copied
from toolchain.accuracy import workers as module
from toolchain.accuracy.evaluation import earlier_threads, evaluate, use_cores
from toolchain.accuracy.run_folder import SETTINGS
from toolchain.accuracy.scoring import RESULT, TIMES, TRANSCRIPTS
from toolchain.accuracy.torch_engine import TorchEngine
from toolchain.accuracy.transcriber import Transcriber, model_transcriber, open_transcriber
from toolchain.accuracy.workers import LocalWorkers, longest_first, measure_splits
from toolchain.data.datasets import DataSet, Utterance
from toolchain.data.recordings import check_recordings
from toolchain.models.loading import load_model


class Processes(LocalWorkers):
    """Workers that use processes for every engine."""

    def _workers_of(self, transcriber: Transcriber):  # type: ignore[no-untyped-def]
        return module._processes(transcriber, self.count)


@pytest.fixture(scope="module")
def data(test_clean: DataSet) -> DataSet:
    return replace(test_clean, utterances=test_clean.utterances[::9])


@pytest.fixture(scope="module")
def alone(tiny_int8: Artifact, data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Transcripts of a run with one worker, as bytes."""
    folder = tmp_path_factory.mktemp("alone") / "results"
    evaluate(open_transcriber(str(tiny_int8.folder)), data, folder)
    return (folder / TRANSCRIPTS).read_bytes()


@pytest.mark.parametrize("workers", [LocalWorkers(2), LocalWorkers(7), Processes(2)])
def test_transcripts_do_not_depend_on_the_workers(
    workers: LocalWorkers, tiny_int8: Artifact, data: DataSet, alone: bytes, tmp_path: Path
) -> None:
    found = evaluate(open_transcriber(str(tiny_int8.folder)), data, tmp_path, workers=workers)
    assert (tmp_path / TRANSCRIPTS).read_bytes() == alone and found.workers == workers.count


def test_nor_on_the_order(tiny_int8: Artifact, data: DataSet, alone: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "longest_first", lambda utterances: sorted(utterances, key=lambda each: each.id, reverse=True))
    evaluate(open_transcriber(str(tiny_int8.folder)), data, tmp_path, workers=LocalWorkers(3))
    assert (tmp_path / TRANSCRIPTS).read_bytes() == alone


def test_nor_on_the_threads_of_torch(data: DataSet, tmp_path: Path) -> None:
    model = load_model("0")
    for name, threads, workers in (("a", 1, LocalWorkers(1)), ("b", 1, LocalWorkers(2)), ("c", 2, LocalWorkers(2))):
        evaluate(model_transcriber(model, "anchor", identity="anchor", threads=threads), data, tmp_path / name, workers=workers)
    assert len({(tmp_path / name / TRANSCRIPTS).read_bytes() for name in "abc"}) == 1


def test_every_thread_that_calls_torch_has_its_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    engine = TorchEngine(load_model("0"), 1)
    with ThreadPoolExecutor(1) as other:
        other.submit(torch.set_num_threads, 2).result()
        other.submit(engine.logits, np.zeros(1600, np.float32)).result()
        assert other.submit(torch.get_num_threads).result() == 1


def test_half_precision_hears_nearly_the_same_and_leaves_the_model(data: DataSet, tmp_path: Path) -> None:
    model = load_model("0")
    half = model_transcriber(model, "half", identity="anchor", half=True)
    assert next(model.network.parameters()).dtype == torch.float32
    waveform = soundfile.read(data.utterances[0].path, dtype="float32")[0]
    exact, rounded = TorchEngine(model).logits(waveform), half.running.logits(waveform)
    assert rounded.dtype == np.float32 and 0 < np.abs(exact - rounded).max() < 0.1
    few = data.limited(4)
    evaluate(model_transcriber(model, "whole", identity="anchor"), few, tmp_path / "whole")
    with pytest.raises(AsrDeployError, match="holds the result of another precision"):
        evaluate(half, few, tmp_path / "whole")
    evaluate(half, few, tmp_path / "whole", replace=True)
    assert "half" in (tmp_path / "whole" / "settings.json").read_text()


@pytest.mark.parametrize(
    ("device", "words"),
    [("cuda:99", "finds .* CUDA devices"), ("tpu", "--torch-device tpu is unknown"), ("cuda:x", "--torch-device cuda:x is unknown")],
)
def test_devices_of_torch_that_are_not_here(device: str, words: str) -> None:
    with pytest.raises(AsrDeployError, match=words):
        open_transcriber("0", torch_device=device)


def test_artifacts_run_as_they_were_exported(tiny_int8: Artifact) -> None:
    with pytest.raises(AsrDeployError, match="--torch-device and --half apply to PyTorch models"):
        open_transcriber(str(tiny_int8.folder), torch_device="cuda")


def test_the_longest_come_first(test_clean: DataSet, tmp_path: Path) -> None:
    ordered = longest_first(test_clean.utterances)
    sizes = [each.path.stat().st_size for each in ordered]
    assert sizes == sorted(sizes, reverse=True) and set(ordered) == set(test_clean.utterances)
    gone = Utterance("9-9-0000", tmp_path / "gone.flac", "ONE")
    assert longest_first([gone, ordered[0]])[-1] == gone  # reading it later reports the error


class Watched:
    """An engine that runs only while three threads call it at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.together = threading.Barrier(3)

    def logits(self, waveform: np.ndarray) -> np.ndarray:
        self.together.wait(timeout=60)  # only three threads at once pass
        return self.engine.logits(waveform)


def test_workers_share_one_engine(tiny_int8: Artifact, data: DataSet) -> None:
    transcriber = open_transcriber(str(tiny_int8.folder))
    assert len(list(LocalWorkers(3).transcribe(replace(transcriber, engine=Watched(transcriber.running)), data.utterances[:9]))) == 9


@pytest.mark.parametrize("workers", [LocalWorkers(2), Processes(2)])
def test_a_recording_that_breaks_after_its_check_ends_the_run_with_its_name(
    workers: LocalWorkers, tiny_int8: Artifact, data: DataSet, tmp_path: Path
) -> None:
    broken = Path(shutil.copy(data.utterances[0].path, tmp_path / "broken.flac"))
    transcriber = open_transcriber(str(tiny_int8.folder))
    utterances = (*data.utterances[:3], Utterance("9-9-0000", broken, "ONE"))
    checked = check_recordings(replace(data, utterances=utterances), transcriber.needs)
    broken.write_bytes(b"fLaC and no more")
    with pytest.raises(AsrDeployError, match=str(broken)):
        evaluate(transcriber, checked, tmp_path / "results", workers=workers)
    assert 0 < (tmp_path / "results" / TRANSCRIPTS).read_text().count("\n") <= 3


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_a_worker_that_dies_is_a_sentence_and_what_was_heard_is_kept(
    pause: float, tiny_int8: Artifact, data: DataSet, alone: bytes, tmp_path: Path
) -> None:
    def kill_the_children(transcript: Transcript, timing: Timing) -> None:
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
        time.sleep(pause)  # long enough that the workers notice before the next request, or not

    transcriber = open_transcriber(str(tiny_int8.folder))
    with pytest.raises(AsrDeployError, match="fewer --workers"):
        evaluate(transcriber, data, tmp_path, workers=Processes(2), progress=kill_the_children)
    assert (tmp_path / TRANSCRIPTS).read_text().count("\n") >= 1
    evaluate(transcriber, data, tmp_path, workers=LocalWorkers(2))
    assert (tmp_path / TRANSCRIPTS).read_bytes() == alone


ORPHANS = """
import sys
from toolchain.accuracy import workers as module
from toolchain.data.datasets import open_data
from toolchain.accuracy.transcriber import open_transcriber
if __name__ == "__main__":
    with module._processes(open_transcriber(sys.argv[1]), 2) as submit:
        for utterance in open_data("digits", "test-clean").utterances[:2]:
            submit(utterance).result()
        print("transcribed", flush=True)
        sys.stdin.read()
"""


def test_a_script_that_every_worker_would_repeat_is_refused(tiny_int8: Artifact, tmp_path: Path) -> None:
    lines = [line.removeprefix("    ") for line in ORPHANS.splitlines() if "__main__" not in line and "stdin" not in line]
    script = tmp_path / "script.py"
    script.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, script, tiny_int8.folder], capture_output=True, text=True, check=False)
    assert f'{script} would run again in every worker process. Put its calls below `if __name__ == "__main__":`' in done.stderr
    assert done.stderr.count("Traceback") == 1  # of the script itself: no worker has started
    piped = [sys.executable, "-", str(tiny_int8.folder)]
    done = subprocess.run(piped, input=script.read_text(), capture_output=True, text=True, check=False)
    assert "Worker processes cannot run a program from standard input. Save it to a file, or use one worker." in done.stderr


LITTLE_MEMORY = """
import resource
import numpy as np
from toolchain.accuracy.transcriber import open_transcriber
transcriber = open_transcriber("DIGITS_ASR_TINY")
noise = 0.01 * np.random.default_rng(0).standard_normal(600 * 16_000).astype(np.float32)
transcriber.transcribe(noise[:16_000])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, used + 200_000_000))
transcriber.transcribe(noise)
"""


def test_a_recording_that_does_not_fit_into_memory_should_be_split() -> None:
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], capture_output=True, text=True, check=False)
    assert "There is not enough memory for a recording of 600.0 s. Split it into shorter ones." in done.stderr


def test_no_worker_outlives_a_killed_parent(tiny_int8: Artifact, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(ORPHANS)
    with subprocess.Popen(
        [sys.executable, tmp_path / "parent.py", tiny_int8.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "transcribed\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
    assert children
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text() for child in children):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


def test_processes_do_not_open_and_hash_the_artifact_again(tiny_int8: Artifact, speech: tuple[Utterance, ...], tmp_path: Path) -> None:
    chosen = open_transcriber(str(copied(tiny_int8, tmp_path / "artifact")))
    (tmp_path / "artifact" / MANIFEST).unlink()
    found = {each.utterance.id: each.hypothesis for each in Processes(2).transcribe(chosen, speech[:3])}
    with_threads = LocalWorkers().transcribe(chosen, speech[:3])
    assert found == {each.utterance.id: each.hypothesis for each in with_threads} and len(found) == 3


# Splits of the cores


def test_ways_to_use_the_cores_are_measured(tiny_int8: Artifact, test_clean: DataSet) -> None:
    found = measure_splits(open_transcriber(str(tiny_int8.folder)), test_clean.utterances, 2)
    assert {(each.workers, each.threads) for each in found} == {(2, 1), (1, 2)}
    assert found[0].audio_seconds_per_second >= found[1].audio_seconds_per_second > 0
    assert {
        (each.workers, each.threads) for each in measure_splits(open_transcriber(str(tiny_int8.folder)), test_clean.utterances[:2], 8)
    } == {
        (8, 1),
        (2, 4),
        (1, 8),
    }


def test_a_run_goes_on_with_the_threads_that_it_began_with(
    tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.accuracy.evaluation.usable_cpus", lambda: 2)
    few = test_clean.limited(3)
    transcriber = open_transcriber(str(tiny_int8.folder))
    evaluate(transcriber.with_threads(2), few, tmp_path)
    assert earlier_threads(transcriber, few, tmp_path) == 2
    assert (
        earlier_threads(transcriber, replace(few, split="dev-clean"), tmp_path) is None
        and earlier_threads(transcriber, few, tmp_path / "new") is None
    )
    fresh, workers, measured = use_cores(transcriber, few)
    assert (fresh.threads, workers.count, measured) == (1, 2, [])  # too few: measuring costs more than it saves
    fresh, workers, measured = use_cores(transcriber, test_clean)
    assert len(measured) == 2 and (workers.count, fresh.threads) == (measured[0].workers, measured[0].threads)


def test_cores_are_those_that_we_may_use() -> None:
    assert usable_cpus() == len(os.sched_getaffinity(0))


# The command


def test_workers_and_threads_by_command(cli: Callable[..., Completed], tiny_int8: Artifact, tmp_path: Path) -> None:
    done = cli("evaluate", tiny_int8.folder, "--limit", 4, "--workers", 3, "--threads", 2, "-o", "a")
    assert done.returncode == 0 and "3 with 2 thread(s) each" in done.stdout
    done = cli("evaluate", tiny_int8.folder, "--limit", 4, "--normalizer", "whisper", "-o", "b")
    assert done.returncode == 0 and "after whisper" in done.stdout and f"{usable_cpus()} with 1 thread(s) each" in done.stdout
    assert (tmp_path / "a" / TRANSCRIPTS).read_bytes() == (tmp_path / "b" / TRANSCRIPTS).read_bytes()


@pytest.mark.parametrize("options", [("--workers", 2), ("--threads", 2), ()])
def test_a_run_goes_on_with_other_options(
    options: tuple[object, ...], cli: Callable[..., Completed], tiny_int8: Artifact, tmp_path: Path
) -> None:
    assert cli("evaluate", tiny_int8.folder, "--limit", 4, "--threads", 2, "-o", "a").returncode == 0
    (tmp_path / "a" / RESULT).unlink()
    times = (tmp_path / "a" / TIMES).read_bytes()
    assert cli("evaluate", tiny_int8.folder, "--limit", 4, *options, "-o", "a").returncode == 0
    assert (tmp_path / "a" / TIMES).read_bytes() == times  # no utterance was transcribed again


def test_a_run_of_other_versions_starts_anew(tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    transcriber, few = open_transcriber(str(tiny_int8.folder)), test_clean.limited(2)
    evaluate(transcriber, few, tmp_path)
    written = json.loads((tmp_path / SETTINGS).read_text())
    assert written["versions"]["onnxruntime"] and written["int8_exact"] == machine_facts()["int8_exact"]
    (tmp_path / SETTINGS).write_text(json.dumps(written | {"versions": written["versions"] | {"onnxruntime": "1.0"}}))
    times = (tmp_path / TIMES).read_bytes()
    evaluate(transcriber, few, tmp_path)
    assert (tmp_path / TIMES).read_bytes() != times


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--engine", "ray", "--torch-device", "cuda"), "--engine ray runs on the CPUs of the nodes. Leave --torch-device out"),
        (("--workers", 0), "--workers 0 is out of range. Use 1 or more"),
        (("--workers", 2, "--device", "qemu-arm64"), "Leave them out, or leave --device out"),
        (("--normalizer", "wispher"), "Did you mean whisper"),
        (("--engine", "rya"), "Did you mean ray"),
        (("--address", "localhost:1"), "--address requires --engine ray"),
        (("--engine", "ray", "--workers", 2), "A Ray cluster uses as many workers as it has CPUs"),
        (("--torch-device", "cuda:99"), "--torch-device cuda:99 does not exist: PyTorch "),
    ],
)
def test_options_that_do_not_fit(options: tuple[object, ...], words: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    assert words in complaint(cli("evaluate", "DIGITS_ASR_TINY", "--limit", 2, *options, "-o", "out"))
    assert not (tmp_path / "out").exists()
