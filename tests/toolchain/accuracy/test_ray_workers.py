"""Ray workers on a real cluster of two nodes: transcripts equal those of a local run byte for byte, even if processes die."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.errors import AsrDeployError
from device_runner.transcripts import Timing, Transcript
from tests.helpers import REPOSITORY, Completed, complaint, run_command
from toolchain.accuracy import ray_workers
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.ray_workers import RayWorkers, open_cluster
from toolchain.accuracy.scoring import TRANSCRIPTS
from toolchain.accuracy.transcriber import artifact_transcriber, model_transcriber, open_transcriber
from toolchain.accuracy.workers import LocalWorkers
from toolchain.compression.bitstreams import coded
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.models.loading import BUNDLED_WEIGHTS, load_model
from toolchain.models.test_cases import LABELS
from toolchain.scenario.sweep import Sweep

WORKER = b"ray::_transcribe_bunch"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with one CPU each, connected to this process."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, [before])])  # nodes import the factory of the tests
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    os.environ.pop("PYTHONPATH")
    os.environ.update({} if before is None else {"PYTHONPATH": before})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def workers(nodes: Any) -> Iterator[RayWorkers]:
    with open_cluster(None, 1) as workers:
        yield workers


def processes(name: bytes) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if each.read_bytes().startswith(name):
                found.append(int(each.parent.name))
        except OSError:  # the process has just ended
            continue
    return found


def local(transcriber: str, data: DataSet, folder: Path) -> bytes:
    evaluate(open_transcriber(transcriber), data, folder)
    return (folder / TRANSCRIPTS).read_bytes()


def test_artifact_and_model_are_heard_as_here(workers: RayWorkers, tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    few = test_clean.limited(30)
    assert workers.count == 2
    for number, transcriber in enumerate((str(tiny_int8.folder), "0")):
        found = evaluate(open_transcriber(transcriber), few, tmp_path / f"ray{number}", workers=workers)
        assert found.workers == 2
        assert (tmp_path / f"ray{number}" / TRANSCRIPTS).read_bytes() == local(transcriber, few, tmp_path / f"here{number}")


def test_a_long_recording_is_divided_there_as_here(workers: RayWorkers, tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    import soundfile

    long = tmp_path / "long.wav"
    soundfile.write(long, np.concatenate([read_audio(each.path, 16_000) for each in test_clean.utterances[:30]]), 16_000)
    utterances = (Utterance("9-9-0000", long, "ONE"), test_clean.utterances[0])
    windowed = open_transcriber(str(tiny_int8.folder)).windowed(5, 1)
    texts = [{each.utterance.id: each.hypothesis for each in where.transcribe(windowed, utterances)} for where in (workers, LocalWorkers())]
    assert texts[0] == texts[1] and len(texts[0]["9-9-0000"].split()) > 100


def test_own_models_are_heard_and_coded_there(workers: RayWorkers, test_clean: DataSet, tmp_path: Path) -> None:
    shutil.copy(BUNDLED_WEIGHTS, tmp_path / "mine.safetensors")
    (tmp_path / "mine.toml").write_text(f'architecture = "DIGITS_ASR_TINY"\nlabels = {json.dumps(LABELS)}\nsample_rate = 16000\n')
    few = test_clean.limited(6)
    for name, transcriber in (("described", str(tmp_path / "mine.toml")), ("factory", "tests.toolchain.models.custom.factory:make")):
        evaluate(open_transcriber(transcriber), few, tmp_path / f"ray-{name}", workers=workers)
        assert (tmp_path / f"ray-{name}" / TRANSCRIPTS).read_bytes() == local(transcriber, few, tmp_path / f"here-{name}")
        model = load_model(transcriber)
        sent = workers.call(coded, model, "uniform", {"bits": 5}, None, None)
        assert sent == coded(model, "uniform", {"bits": 5}, None, None)


def test_a_killed_worker_costs_nothing_but_time(
    workers: RayWorkers, tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_workers, "BUNCH", 3.0)
    killed: list[int] = []

    def kill(transcript: Transcript, timing: Timing) -> None:
        # Workers have another name between two tasks; the run has about a hundred tasks.
        while len(killed) < 2 and not (alive := [each for each in processes(WORKER) if each not in killed]):
            time.sleep(0.001)
        if len(killed) < 2:
            os.kill(alive[0], signal.SIGKILL)
            killed.append(alive[0])

    evaluate(open_transcriber(str(tiny_int8.folder)), test_clean, tmp_path / "ray", workers=workers, progress=kill)
    assert len(killed) == 2
    assert (tmp_path / "ray" / TRANSCRIPTS).read_bytes() == local(str(tiny_int8.folder), test_clean, tmp_path / "here")


def test_a_lost_node_costs_nothing_but_time(
    nodes: Any, tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_workers, "BUNCH", 3.0)
    third = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    gone: list[threading.Thread] = []

    def lose(transcript: Transcript, timing: Timing) -> None:
        if not gone:
            gone.append(threading.Thread(target=nodes.remove_node, args=(third, False)))
            gone[0].start()

    with open_cluster(None, 1) as three:
        assert three.count == 3
        evaluate(open_transcriber(str(tiny_int8.folder)), test_clean, tmp_path / "ray", workers=three, progress=lose)
    gone[0].join()
    with open_cluster(None, 1) as rest:  # the cluster may not have noticed the loss yet
        assert rest.count == 2
    assert (tmp_path / "ray" / TRANSCRIPTS).read_bytes() == local(str(tiny_int8.folder), test_clean, tmp_path / "here")


def test_a_stopped_run_of_a_cluster_goes_on_here(workers: RayWorkers, tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    few = test_clean.limited(40)

    def stop(transcript: Transcript, timing: Timing) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(open_transcriber(str(tiny_int8.folder)), few, tmp_path / "ray", workers=workers, progress=stop)
    assert (tmp_path / "ray" / TRANSCRIPTS).read_text().count("\n") == 1
    evaluate(open_transcriber(str(tiny_int8.folder)), few, tmp_path / "ray", workers=LocalWorkers(2))
    assert (tmp_path / "ray" / TRANSCRIPTS).read_bytes() == local(str(tiny_int8.folder), few, tmp_path / "here")


class Steps:
    """Records the progress of a sweep."""

    def configuration(self, name: str, step: str, utterances: int) -> Callable[[Transcript, Timing], None]:
        return lambda transcript, timing: None


def test_a_sweep_is_the_same_on_a_cluster(workers: RayWorkers, test_clean: DataSet, tmp_path: Path) -> None:
    few, dev = test_clean.limited(6), open_data("digits", "dev-clean").limited(4)
    curves = []
    for name, chosen in (("ray", workers), ("here", LocalWorkers())):
        sweep = Sweep(load_model("0"), "uniform", {}, None, dev, few, tmp_path / name, 1, Steps(), values=(3.0, 4.0), workers=chosen)
        curves.append(sweep.run())
    assert [(each.size_bits, each.wer) for each in curves[0].points] == [(each.size_bits, each.wer) for each in curves[1].points]
    for ours, theirs in zip(*(sorted((tmp_path / name).rglob("model.asrb")) for name in ("ray", "here")), strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    for ours, theirs in zip(*(sorted((tmp_path / name).rglob(TRANSCRIPTS)) for name in ("ray", "here")), strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_what_a_task_complains_of_is_said_here(workers: RayWorkers, test_clean: DataSet, tmp_path: Path) -> None:
    import soundfile

    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(100, np.float32), 16_000)
    utterances = (*test_clean.utterances[:2], Utterance("9-9-0000", short, "ONE"))
    model = model_transcriber(load_model("0"), "anchor", identity="anchor")
    with pytest.raises(AsrDeployError, match=f"^{short}: The audio has 100 samples"):
        list(workers.transcribe(model, utterances))
    short.write_bytes(b"RIFF")
    with pytest.raises(AsrDeployError, match=str(short)):
        list(workers.transcribe(model, utterances))


def test_a_corpus_is_not_kept_in_memory(test_clean: DataSet) -> None:
    alive: list[Any] = []
    most = 0
    for bunch in ray_workers._bunches(test_clean.utterances, 16_000):
        alive += [weakref.ref(waveform) for _, waveform in bunch]
        most = max(most, sum(each() is not None for each in alive))
    assert len(alive) == len(test_clean.utterances) and most < 60  # two bunches of 20 s, with utterances of at least 1 s


def test_errors_of_tasks_are_a_line_without_codes() -> None:
    from ray.exceptions import RayTaskError

    cause = ModuleNotFoundError("No module named 'toolchain'")
    assert ray_workers._first_line(RayTaskError("call", "\x1b[36mray::call()\x1b[39m (pid=1)", cause)) == "No module named 'toolchain'"
    assert ray_workers._first_line(TimeoutError()) == "TimeoutError"


def test_a_node_that_comes_late_is_checked(
    workers: RayWorkers, tiny_int8: Artifact, test_clean: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_workers, "package_versions", lambda: {"onnxruntime": "1.0"})
    with pytest.raises(AsrDeployError, match="A node that joined the Ray cluster has other package versions"):
        list(workers.transcribe(replace(open_transcriber(str(tiny_int8.folder)), identity="late"), test_clean.utterances[:1]))


def test_a_sweep_that_fails_stops_what_is_in_work(test_clean: DataSet, tmp_path: Path) -> None:
    """If one configuration fails, another one that is being transcribed stops too."""

    class Failing(Steps):
        def __init__(self) -> None:
            self.heard, self.began = 0, threading.Barrier(2)

        def configuration(self, name: str, step: str, utterances: int) -> Callable[[Transcript, Timing], None]:
            def heard(transcript: Transcript, timing: Timing) -> None:
                if name == "anchor":
                    return
                if self.heard == 0:
                    self.began.wait(timeout=60)
                if name == "uniform-3":
                    raise AsrDeployError("no more")
                self.heard += 1
                time.sleep(0.05)

            return heard

    watcher, dev = Failing(), open_data("digits", "dev-clean").limited(2)
    sweep = Sweep(
        load_model("0"), "uniform", {}, None, dev, test_clean, tmp_path, 1, watcher, values=(3.0, 4.0), workers=LocalWorkers(1, 2)
    )
    with pytest.raises(AsrDeployError, match="no more"):
        sweep.run()
    assert watcher.heard < 20


def test_what_kills_every_worker_is_given_up(workers: RayWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies() -> None:  # a local function, because nodes do not have this module
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ray_workers, "RETRIES", 1)
    with pytest.raises(AsrDeployError, match=r"lost a task 2 times \(.*\)\. Check its nodes and repeat the command to resume\.$"):
        workers.call(dies)


def test_nodes_of_other_versions_are_refused(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, we = ray_workers.machine_facts(), os.getpid()
    other = facts | {"versions": facts["versions"] | {"onnxruntime": "1.0"}}
    monkeypatch.setattr(ray_workers, "machine_facts", lambda: facts if os.getpid() == we else other)
    with (
        pytest.raises(AsrDeployError, match="has other package versions than this machine, for example of onnxruntime"),
        open_cluster(None, 1),
    ):
        pass


def test_nodes_without_room_are_refused(nodes: Any) -> None:
    with pytest.raises(AsrDeployError, match=r"No node of the Ray cluster has 64 CPU\(s\)"), open_cluster(None, 64):
        pass


def test_int8_is_not_heard_by_processors_that_differ(
    workers: RayWorkers, tiny_int8: Artifact, tiny_fp32: Artifact, test_clean: DataSet
) -> None:
    workers._nodes[1]["int8_exact"] = not workers._nodes[0]["int8_exact"]
    with pytest.raises(AsrDeployError, match="Use nodes with the same type of CPU"):
        list(workers.transcribe(open_transcriber(str(tiny_int8.folder)), test_clean.utterances[:1]))
    assert len(list(workers.transcribe(open_transcriber(str(tiny_fp32.folder)), test_clean.utterances[:1]))) == 1
    # The remedy of the message works.
    reduced = tiny_int8.manifest.model_copy(update={"scheme": "int8+reduce_range"})
    assert not artifact_transcriber(replace(tiny_int8, manifest=reduced)).saturates and artifact_transcriber(tiny_int8).saturates


def test_by_command(nodes: Any, tiny_int8: Artifact, tmp_path: Path) -> None:
    address = ("--engine", "ray", "--address", nodes.address)
    done = run_command("evaluate", tiny_int8.folder, "--limit", 5, *address, "-o", "ray", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 with 1 thread(s) each" in done.stdout


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    done = run_command("evaluate", "0", "--limit", 2, "--engine", "ray", "--address", "127.0.0.1:1", "-o", "ray", cwd=tmp_path)
    assert "The Ray cluster 127.0.0.1:1 cannot be reached" in complaint(done, alone=False)
    assert not (tmp_path / "ray").exists()


def test_without_the_extra(tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from toolchain.cli.main import main; main()"
    command = [sys.executable, "-c", program, "evaluate", "DIGITS_ASR_TINY", "--limit", "2", "--engine", "ray", "-o", "out"]
    done: Completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "pip install 'asrdeploy[ray]'" in complaint(done)
    assert not (tmp_path / "out").exists()
