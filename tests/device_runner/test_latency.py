"""Latency: statistics, conditions, validity and cold starts. No test depends on a measured time."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from device_runner import latency
from device_runner.artifact import Artifact
from device_runner.contract import DeviceFacts, Job, Result, State, Timed, job_digest, job_text
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of
from device_runner.jobs import Task
from device_runner.latency import QUICK, STANDARD, STRICT, Conditions, LatencyResult, Steady, summarise, why_invalid
from tests.device_runner.latency_parts import RATE, noise, steady
from tests.helpers import artifact_of, convolution

HOST = DeviceFacts(kind="host", model="m", cpu="c", int8_exact=True, abi="a", system="s", logical_cpus=2, memory_bytes=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(tmp_path_factory.mktemp("tiny") / "artifact", convolution(), model="TINY")


@pytest.fixture(scope="module")
def result(artifact: Artifact) -> LatencyResult:
    """The real thing: fresh processes, onnxruntime, two lengths."""
    return latency.measure([artifact], noise(0.2, 0.5), threads=1, conditions=QUICK)[0]


# Statistics


def test_statistics_agree_with_numpy() -> None:
    samples = np.random.default_rng(2).gamma(4, 0.01, size=300)
    found = summarise(5.0, [samples[:100], samples[100:180], samples[180:]])
    assert found.n == 300
    assert (found.p50, found.p90, found.p95, found.p99) == pytest.approx([np.quantile(samples, q) for q in (0.5, 0.9, 0.95, 0.99)])
    assert (found.min, found.mean, found.std) == pytest.approx((samples.min(), samples.mean(), samples.std(ddof=1)))
    assert found.real_time_factor == pytest.approx(samples.mean() / 5)
    assert [sample for each in found.rounds for sample in each] == samples.tolist()


def test_percentiles_of_known_samples_interpolate() -> None:
    found = summarise(2.0, [np.arange(101.0)])
    assert (found.p50, found.p90, found.p95, found.p99) == pytest.approx((50, 90, 95, 99))
    assert summarise(2.0, [[1.0, 2.0]]).p90 == pytest.approx(1.9)


def test_p99_needs_100_runs() -> None:
    assert summarise(2.0, [[0.1] * 50, [0.1] * 49]).p99 is None
    assert summarise(2.0, [[0.1] * 50, [0.1] * 50]).p99 == pytest.approx(0.1)


def test_spread_is_between_the_medians_of_rounds() -> None:
    found = summarise(2.0, [[1.0, 1.0, 9.0], [1.2, 1.2, 1.2], [1.1, 1.1, 1.1]])
    assert found.spread == pytest.approx(0.2 / 1.1)
    assert summarise(2.0, [[1.0, 3.0]]).spread == 0


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 10**11), min_size=1, max_size=60), min_size=1, max_size=4), st.floats(0.1, 60))
def test_statistics_are_in_order(nanoseconds: list[list[int]], seconds: float) -> None:
    found = summarise(seconds, [[each / 1e9 for each in samples] for samples in nanoseconds])
    flat = [sample for samples in found.rounds for sample in samples]
    ordered = [found.min, found.p50, found.p90, found.p95, max(flat) if found.p99 is None else found.p99, max(flat)]
    assert all(low <= high * (1 + 1e-12) for low, high in itertools.pairwise(ordered))
    assert min(flat) * (1 - 1e-12) <= found.mean <= max(flat) * (1 + 1e-12)
    assert found.n == len(flat) and found.std >= 0 and found.spread >= 0 and (found.p99 is None) == (found.n < 100)
    assert Steady.model_validate_json(found.model_dump_json()) == found


# Conditions


def test_presets_keep_what_the_conventions_ask_for() -> None:
    assert (STANDARD.warmup, STANDARD.minimum_runs, STANDARD.minimum_seconds) == (10, 100, 10.0)
    assert (STRICT.minimum_runs, STRICT.minimum_seconds) == (1024, 60.0)
    assert min(STANDARD.rounds, STRICT.rounds) >= 3
    with pytest.raises(ValidationError):
        Conditions(**STANDARD.model_dump() | {"warmup": 0})


class Paced:
    """A device whose runs take 0.5 s of a clock of its own: how `measure` asks and what it makes of the answers."""

    name, kind = "paced", "host"

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def run(self, task: Task, progress: object = None) -> Result:
        job = task.job
        self.jobs.append(job)
        runs = max(job.repeats, math.ceil(job.minimum_seconds / 0.5))
        timings = [Timed(id=each.id, audio_seconds=float(each.id.split()[0]), samples=(0.5,) * runs) for each in job.audio]
        return made(job, timings=timings, import_seconds=1, load_seconds=2, first_inference_seconds=3, baseline_bytes=10, peak_bytes=14)


def made(job: Job, **figures: object) -> Result:
    state = State(load_average=0.0)
    return Result(
        job=job_digest(job_text(job)), runner="python", device=HOST, before=state, after=state, valid=True, versions={}, **figures
    )


@pytest.fixture
def paced() -> Paced:
    return Paced()


def test_artifacts_are_interleaved_over_the_rounds(artifact: Artifact, paced: Paced, tmp_path: Path) -> None:
    other = artifact_of(tmp_path / "other", convolution(), model="OTHER")
    conditions = Conditions(name="own", warmup=10, minimum_runs=7, minimum_seconds=0.0, rounds=3)
    found = latency.measure([artifact, other], noise(0.2, 0.5), device=paced, conditions=conditions, threads=2, provider="xnnpack")
    digests = [sha256_of(each.folder / "manifest.json") for each in (artifact, other)]
    assert [job.artifact for job in paced.jobs] == digests * 3
    assert {(job.mode, job.warmup, job.repeats, job.threads, job.provider) for job in paced.jobs} == {("latency", 10, 3, 2, "xnnpack")}
    assert [each.artifact.model for each in found] == ["TINY", "OTHER"]
    for result in found:
        assert [each.audio_seconds for each in result.steady] == [0.2, 0.5]
        assert [[len(samples) for samples in each.rounds] for each in result.steady] == [[3, 3, 3]] * 2


def test_standard_runs_are_enough_in_number_and_time(artifact: Artifact, paced: Paced) -> None:
    (found,) = latency.measure([artifact], noise(0.2), device=paced)
    assert found.valid and found.reasons == ()
    assert found.steady[0].n == 102 and found.steady[0].p99 == pytest.approx(0.5)
    assert found.steady[0].real_time_factor == pytest.approx(2.5)
    assert (found.cold.median_load_seconds, found.cold.median_first_inference_seconds, found.cold.median_memory_bytes) == (2, 3, 4)
    assert len(found.cold.starts) == len(found.states) == 3


def test_minimum_time_and_number_extend_the_runs(artifact: Artifact, paced: Paced) -> None:
    (found,) = latency.measure([artifact], noise(0.2), device=paced, conditions=QUICK.model_copy(update={"minimum_seconds": 30.0}))
    assert [len(samples) for samples in found.steady[0].rounds] == [30, 30]
    (found,) = latency.measure([artifact], noise(0.2), device=paced, conditions=STRICT)
    assert found.valid and found.steady[0].n >= 1024 and math.fsum(sum(each) for each in found.steady[0].rounds) >= 60


def test_progress_goes_from_nothing_to_all(artifact: Artifact, paced: Paced) -> None:
    seen: list[tuple[str, float]] = []
    said = lambda what, share: seen.append((what, share))  # noqa: E731
    latency.measure([artifact, artifact], noise(0.2, 0.5), device=paced, conditions=QUICK, progress=said)
    assert [what for what, _ in seen[:2]] == ["round 1 of 2, artifact"] * 2
    assert [share for _, share in seen] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_an_emulated_device_is_for_function_only(artifact: Artifact, paced: Paced, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, facts = paced.run, HOST.model_copy(update={"kind": "emulator"})
    monkeypatch.setattr(paced, "run", lambda task: plain(task).model_copy(update={"device": facts}))
    (found,) = latency.measure([artifact], noise(0.2), device=paced)
    assert found.function_only and not found.valid and "say nothing about a phone" in found.reasons[0]


def test_what_a_device_says_against_its_times_counts(artifact: Artifact, paced: Paced, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = paced.run
    hot = {"reasons": ("battery too hot before the job: 41 °C, more than 37 °C",), "peak_bytes": None}
    monkeypatch.setattr(paced, "run", lambda task: plain(task).model_copy(update=hot))
    (found,) = latency.measure([artifact], noise(0.2), device=paced)
    assert not found.valid and found.reasons == hot["reasons"] and found.cold.median_memory_bytes is None


# Validity


def test_enough_runs_on_an_idle_machine_are_valid() -> None:
    assert why_invalid(STANDARD, [steady()], HOST, load_average=1.0) == ()
    assert why_invalid(STANDARD, [summarise(2.0, [[0.1] * 100])], HOST, 0.0) == ()  # just 10 s, whatever the sum of floats says
    phone = HOST.model_copy(update={"kind": "phone"})
    assert why_invalid(STANDARD, [steady()], phone, load_average=9.0) == ()  # the kernel's own threads


@pytest.mark.parametrize(
    ("conditions", "measured", "load", "reason"),
    [
        (STANDARD, steady(median=1.0, runs=33), 0.0, "2 s of audio: 99 runs, fewer than 100"),
        (STANDARD, steady(median=0.05), 0.0, "2 s of audio: 6.0 s of runs, less than 10 s"),
        (STANDARD, steady(drift=0.06), 0.0, "2 s of audio: the rounds differ by 11%, more than 10%"),
        (STANDARD, steady(), 1.1, "load average 1.1 on 2 CPUs: other programs were running"),
        (STANDARD.model_copy(update={"rounds": 2}), steady(), 0.0, "rounds: 2, fewer than 3"),
        (STANDARD.model_copy(update={"warmup": 9}), steady(), 0.0, "warm-up runs: 9, fewer than 10"),
        (STANDARD.model_copy(update={"name": "quick"}), steady(), 0.0, "the quick protocol is for trials only"),
    ],
)
def test_each_shortcoming_has_its_reason(conditions: Conditions, measured: Steady, load: float, reason: str) -> None:
    assert why_invalid(conditions, [measured], HOST, load) == (reason,)


# The real thing


def test_result_names_the_artifact_and_the_machine(artifact: Artifact, result: LatencyResult) -> None:
    assert (result.artifact.model, result.artifact.scheme, result.artifact.trained) == ("TINY", "fp32", True)
    assert (result.artifact.sha256, result.artifact.size_bytes) == (artifact.digest, artifact.size_bytes)
    assert result.versions["onnxruntime"] and result.host["logical_cpus"] and result.threads == 1
    assert [each.n for each in result.steady] == [6, 6]
    assert not result.valid and "the quick protocol is for trials only" in result.reasons


def test_cold_starts_are_fresh_processes(result: LatencyResult) -> None:
    assert len(result.cold.starts) == 2 and result.cold.audio_seconds == 0.5
    for each in result.cold.starts:
        assert min(each.import_seconds, each.load_seconds, each.first_inference_seconds) > 0
        assert 0 < each.baseline_bytes <= each.peak_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the parent's mark in ru_maxrss")
def test_memory_of_a_fresh_process_is_not_its_parents(artifact: Artifact) -> None:
    ballast = np.ones(50_000_000)  # 400 MB that are in memory
    (found,) = latency.measure([artifact], noise(0.2), conditions=QUICK)
    assert all(each.peak_bytes < ballast.nbytes for each in found.cold.starts)


def test_result_survives_json(result: LatencyResult) -> None:
    assert LatencyResult.model_validate_json(result.model_dump_json()) == result
    for wrong in ({"version": 1}, {"unheard_of": 1}):
        with pytest.raises(ValidationError):
            LatencyResult.model_validate(result.model_dump() | wrong)


def test_module_needs_no_torch() -> None:
    code = "import sys, device_runner.latency; sys.exit(any(name in sys.modules for name in ('torch', 'onnxruntime', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(latency.__file__).parent.parent).returncode == 0


# Errors


def test_model_that_the_runtime_refuses(tmp_path: Path) -> None:
    broken = artifact_of(tmp_path / "broken", b"no model at all")
    with pytest.raises(AsrDeployError, match=r"^onnxruntime .* cannot load"):
        latency.measure([broken], noise(0.2), conditions=QUICK)


def test_model_that_changed_since_it_was_opened(tmp_path: Path) -> None:
    changed = artifact_of(tmp_path / "changed", convolution())
    changed.model_path.write_bytes(changed.model_path.read_bytes() + b" ")
    with pytest.raises(AsrDeployError, match="was changed or cut short"):
        latency.measure([changed], noise(0.2), conditions=QUICK)


def test_model_that_was_exported_again_meanwhile(tmp_path: Path, paced: Paced) -> None:
    first = artifact_of(tmp_path / "again", convolution())
    artifact_of(tmp_path / "again", convolution(), model="OTHER")
    with pytest.raises(AsrDeployError, match="exported again"):
        latency.measure([first], noise(0.2), device=paced, conditions=QUICK)


def test_format_without_engine(tmp_path: Path) -> None:
    unknown = artifact_of(tmp_path / "unknown", convolution(), format="tflite")
    with pytest.raises(AsrDeployError, match="tflite"):
        latency.measure([unknown], noise(0.2), conditions=QUICK)


def test_audio_below_one_frame(artifact: Artifact) -> None:
    with pytest.raises(AsrDeployError, match="requires at least 400"):
        latency.measure([artifact], noise(0.01), conditions=QUICK)


def test_arguments_that_cannot_be_measured(artifact: Artifact) -> None:
    with pytest.raises(AsrDeployError, match="at least one length"):
        latency.measure([artifact], {})
    with pytest.raises(AsrDeployError, match="--threads must be 1 or more, not 0"):
        latency.measure([artifact], noise(0.2), threads=0)
    with pytest.raises(ValueError, match="is not 2 s"):
        latency.measure([artifact], {2.0: noise(0.2)[0.2]})


# Speech


def test_real_speech_is_the_recordings_behind_each_other(tmp_path: Path) -> None:
    paths, parts = [tmp_path / "a.wav", tmp_path / "b.wav"], [np.full(2 * RATE, 0.25, np.float32), np.full(RATE, -0.5, np.float32)]
    for path, part in zip(paths, parts, strict=True):
        soundfile.write(path, part, RATE)
    found = latency.real_speech(paths, [1, 2.5, 7.3], RATE)
    whole = np.concatenate(parts)
    shapes = {seconds: (each.shape, each.dtype) for seconds, each in found.items()}
    assert shapes == {1: ((16_000,), np.float32), 2.5: ((40_000,), np.float32), 7.3: ((116_800,), np.float32)}
    assert np.array_equal(found[2.5], whole[:40_000])
    assert latency.real_speech([paths[0], tmp_path / "not_needed.wav"], [2.0], RATE)[2.0].shape == (2 * RATE,)
    assert np.array_equal(found[7.3], np.concatenate([whole, whole, whole])[:116_800])


def test_real_speech_needs_recordings_and_lengths(tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="no recording"):
        latency.real_speech([], [2.0], RATE)
    with pytest.raises(AsrDeployError, match=r"missing\.wav"):
        latency.real_speech([tmp_path / "missing.wav"], [2.0], RATE)
    for length in (0.0, -2.0, math.inf, math.nan):
        with pytest.raises(AsrDeployError, match="positive number"):
            latency.real_speech([tmp_path / "missing.wav"], [length], RATE)
