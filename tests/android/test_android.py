"""The Kotlin core on a real JVM: it gives the same transcripts as the Python runner."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.contract import Heard, Timed
from device_runner.devices import ProcessDevice, local_device
from device_runner.engines import Waveform
from device_runner.errors import AsrDeployError
from device_runner.jobs import make_task
from tests.android.fixtures import benchcore_jar
from tests.helpers import REPOSITORY
from toolchain.data.datasets import DataSet

UTTERANCES = 70


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASRDEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def jvm() -> ProcessDevice:
    return ProcessDevice("jvm", "host", ("java", "-jar", str(benchcore_jar())))


@pytest.fixture(scope="session")
def tiny_reduced(exported_once: Callable[[str, str], Artifact]) -> Artifact:
    """An artifact with 7-bit weights, whose sums saturate on no processor."""
    return exported_once("onnx", "int8+reduce_range")


def recordings(data: DataSet, number: int) -> Iterator[tuple[str, Waveform]]:
    """Return utterances of all speakers in turn."""
    chosen = sorted(data.utterances, key=lambda each: each.id.split("-")[::-1])[:number]
    return ((each.id, read_audio(each.path, 16_000)) for each in chosen)


@pytest.mark.parametrize("name", ["tiny_fp32", "tiny_int8", "tiny_reduced"])
def test_it_hears_what_this_machine_hears(name: str, jvm: ProcessDevice, test_clean: DataSet, request: pytest.FixtureRequest) -> None:
    """Compare transcripts, which are equal even for int8 on x86 without VNNI, where logits differ by up to 0.3."""
    task = make_task(request.getfixturevalue(name), recordings(test_clean, UTTERANCES), mode="accuracy")
    told: list[Heard | Timed] = []
    theirs, ours = jvm.run(task, told.append), local_device().run(task)
    assert [(each.id, each.hypothesis) for each in theirs.transcripts] == [(each.id, each.hypothesis) for each in ours.transcripts]
    assert len(theirs.transcripts) == UTTERANCES and told == list(theirs.transcripts)
    assert sum(bool(each.hypothesis) for each in theirs.transcripts) > UTTERANCES // 2
    assert [each.audio_seconds for each in theirs.transcripts] == [each.audio_seconds for each in ours.transcripts]
    assert theirs.runner == "jvm" and theirs.versions.keys() == {"benchcore", "java", "kotlin", "onnxruntime"}


def test_it_sees_the_same_machine(jvm: ProcessDevice, tiny_fp32: Artifact, test_clean: DataSet) -> None:
    task = make_task(tiny_fp32, recordings(test_clean, 1), mode="accuracy")
    theirs, ours = jvm.run(task), local_device().run(task)
    alike = {"kind", "model", "cpu", "cpu_features", "int8_exact", "abi", "logical_cpus"}
    assert theirs.device.model_dump(include=alike) == ours.device.model_dump(include=alike)
    assert theirs.before.celsius.keys() == ours.before.celsius.keys() and len(theirs.before.kilohertz) == len(ours.before.kilohertz)
    assert theirs.baseline_bytes and theirs.peak_bytes and 10e6 < theirs.baseline_bytes <= theirs.peak_bytes < theirs.device.memory_bytes


def test_its_error_is_a_sentence_of_the_device(jvm: ProcessDevice, tiny_fp32: Artifact, test_clean: DataSet) -> None:
    task = make_task(tiny_fp32, recordings(test_clean, 1), mode="accuracy", provider="nnapi")
    with pytest.raises(
        AsrDeployError, match=r"^On jvm: onnxruntime [0-9.]+ has no provider nnapi on this device\. Available providers: cpu.*\.$"
    ):
        jvm.run(task)


@pytest.mark.parametrize(
    "option, repeats, words",
    [
        ("-Djava.io.tmpdir=/nowhere", 1, "ONNX Runtime does not run on this device"),
        ("-Xmx24m", 200, "requires more memory than is available"),
    ],
)
def test_a_jvm_that_cannot_run_it_says_so_in_a_sentence(
    option: str, repeats: int, words: str, tiny_fp32: Artifact, test_clean: DataSet
) -> None:
    poor = ProcessDevice("jvm", "host", ("java", option, "-jar", str(benchcore_jar())))
    task = make_task(tiny_fp32, [("one", next(recordings(test_clean, 1))[1].repeat(repeats))], mode="accuracy")
    with pytest.raises(AsrDeployError, match=rf"^On jvm: .*{words}.*\.$"):
        poor.run(task)


def test_build_does_nothing_where_nothing_changed() -> None:
    jar = benchcore_jar()
    before = jar.stat().st_mtime_ns
    done = subprocess.run([REPOSITORY / "android" / "build"], capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{jar}\n", "")
    assert jar.stat().st_mtime_ns == before


def test_build_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "android").mkdir()
    script = tmp_path / "android" / "build"
    script.write_bytes((REPOSITORY / "android" / "build").read_bytes())
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "mkdir", "flock", "find", "sort", "xargs", "sha256sum", "cat"):
        (tools / tool).symlink_to(next(path for folder in os.get_exec_path() if (path := Path(folder) / tool).exists()))
    done = subprocess.run([tools / "bash", script], capture_output=True, text=True, timeout=60, env={"PATH": str(tools)})
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "openjdk-17-jdk-headless maven" in done.stderr
    (tools / "mvn").write_text("")
    (tools / "javac").write_text("#!/bin/sh\necho javac 11.0.2\n")
    for name in ("mvn", "javac"):
        (tools / name).chmod(0o755)
    (tools / "sh").symlink_to("/bin/sh")
    done = subprocess.run([tools / "bash", script], capture_output=True, text=True, timeout=60, env={"PATH": str(tools)})
    assert done.returncode == 2 and "javac 11.0.2 is too old" in done.stderr and "openjdk-17-jdk-headless" in done.stderr
