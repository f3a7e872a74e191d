"""Latency of artifacts on a device: load time, first inference, peak memory and steady state.

A measurement consists of rounds. In each round, every artifact runs once as a job in a new process on the device. Each process gives
one load time and one first inference. The steady state combines all rounds, because it varies more between processes than within one
(executorch #8603). Times are seconds of the device's monotonic clock and cover only the call of the runtime; tables show milliseconds.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from device_runner.artifact import Artifact, open_artifact
from device_runner.audio import read_audio
from device_runner.contract import DeviceFacts, Kind, Limits, Result, State
from device_runner.devices import Device, local_device
from device_runner.engines import Waveform, check_threads
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts
from device_runner.jobs import make_task

Progress = Callable[[str, float], None]
# A figure may not be quoted if it exceeds one of these limits, or if less was measured than STANDARD requires.
LARGEST_SPREAD = 0.10
LARGEST_LOAD_PER_CPU = 0.5
HOTTEST_CELSIUS = 37.0
FUNCTION_ONLY: tuple[Kind, ...] = ("emulated", "emulator")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Conditions(_Record):
    """How often and how long to measure. Derive variants of a preset with ``model_copy(update=…)``."""

    name: str
    warmup: Annotated[int, Field(ge=1)] = Field(description="warm-up runs per audio length and round, which are discarded")
    minimum_runs: Annotated[int, Field(ge=1)] = Field(description="minimum number of runs per audio length over all rounds")
    minimum_seconds: Annotated[float, Field(ge=0)] = Field(description="minimum total time of the runs per audio length over all rounds")
    rounds: Annotated[int, Field(ge=1)] = Field(
        description="number of new processes per artifact, interleaved with those of other artifacts"
    )


STANDARD = Conditions(name="standard", warmup=10, minimum_runs=100, minimum_seconds=10.0, rounds=3)
STRICT = Conditions(name="strict", warmup=10, minimum_runs=1024, minimum_seconds=60.0, rounds=3)
QUICK = Conditions(name="quick", warmup=1, minimum_runs=6, minimum_seconds=0.0, rounds=2)


class ArtifactFacts(_Record):
    """The measured artifact."""

    model: str
    weights: str
    trained: bool
    format: str
    scheme: str
    sha256: str
    size_bytes: int
    parameters: int


class ColdStart(_Record):
    """Start of one new process. The page cache is warm, because the model file was read just before to check its sha256."""

    import_seconds: float | None = Field(description="time to import the runtime")
    load_seconds: float = Field(description="time to load the model file into a session that can run")
    first_inference_seconds: float
    baseline_bytes: int | None = Field(description="peak resident memory after importing the runtime and before loading the model")
    peak_bytes: int | None = Field(description="peak resident memory after load and first inference")


class Cold(_Record):
    """Starts of all processes, each with the longest audio, and their medians."""

    audio_seconds: float
    starts: Annotated[tuple[ColdStart, ...], Field(min_length=1)]
    median_load_seconds: float
    median_first_inference_seconds: float
    median_memory_bytes: float | None = Field(description="peak minus baseline, including mapped pages of the model file that were read")


class Steady(_Record):
    """Steady state for one audio length. Times are in seconds per call of the runtime at batch size 1."""

    audio_seconds: float
    n: int
    min: float
    mean: float
    p50: float
    p90: float = Field(description="the main figure")
    p95: float
    p99: float | None = Field(description="None if n is below 100")
    std: float = Field(description="sample standard deviation (n - 1); 0 if n is 1")
    real_time_factor: float = Field(description="mean computing time per second of audio")
    spread: float = Field(description="(largest - smallest median of a round) / median of all samples")
    rounds: tuple[tuple[float, ...], ...] = Field(description="all samples by round, in chronological order")


class LatencyResult(_Record):
    """Content of the JSON file that ``asrdeploy bench`` writes for each artifact."""

    version: Literal[2] = 2
    artifact: ArtifactFacts
    threads: int
    provider: str
    conditions: Conditions
    device: str
    facts: DeviceFacts
    runner: str
    versions: dict[str, str] = Field(description="versions on the device")
    host: dict[str, Any] = Field(description="machine that controlled the device, and the commit of asrdeploy")
    states: tuple[tuple[State, State], ...] = Field(description="states of the device before and after each round")
    cold: Cold
    steady: tuple[Steady, ...]
    valid: bool
    reasons: tuple[str, ...] = Field(description="why the figures may not be quoted; empty if valid")

    @property
    def function_only(self) -> bool:
        """Whether the device is emulated, so that its times say nothing about a phone."""
        return self.facts.kind in FUNCTION_ONLY


def measure(
    artifacts: Sequence[Artifact],
    waveforms: dict[float, Waveform],
    *,
    device: Device | None = None,
    threads: int = 1,
    provider: str = "cpu",
    conditions: Conditions = STANDARD,
    failed: Callable[[int, AsrDeployError], None] | None = None,
    progress: Progress | None = None,
) -> list[LatencyResult]:
    """Measure the latency of artifacts on a device, with a new process for each artifact and round.

    Args:
        artifacts: Artifacts to run. Their files must not change during the measurement.
        waveforms: Waveforms ``[samples]`` at the artifacts' sample rate, by their length in seconds; see ``real_speech``.
        device: Device to measure on; None for this machine.
        threads: Number of runtime threads.
        provider: Execution provider of ONNX Runtime; see ``contract.Job``.
        conditions: How often and how long to measure.
        failed: Callback that receives the number of an artifact whose job failed, and the reason. The others are measured. None raises
            the error.
        progress: Callback that receives the next step and the finished fraction in 0..1.

    Returns:
        One result per artifact that did not fail.

    Raises:
        AsrDeployError: If there is no waveform, ``threads`` is below 1, an artifact changed, a job failed, or a waveform is too short.
        ValueError: If the length of a waveform differs from its key.
    """
    if not waveforms:
        raise AsrDeployError("There is no audio to measure with. Give at least one length in seconds.")
    check_threads(threads)
    for artifact in artifacts:
        for seconds, waveform in waveforms.items():
            if waveform.shape != (round(seconds * artifact.manifest.sample_rate),):
                raise ValueError(f"a waveform of shape {waveform.shape} is not {seconds:g} s at {artifact.manifest.sample_rate} Hz")
    device = device or local_device()
    say = progress or (lambda what, share: None)
    recordings = [(f"{seconds:g} s", waveform) for seconds, waveform in waveforms.items()]
    settings = {
        "mode": "latency",
        "threads": threads,
        "provider": provider,
        "warmup": conditions.warmup,
        "repeats": math.ceil(conditions.minimum_runs / conditions.rounds),
        "minimum_seconds": conditions.minimum_seconds / conditions.rounds,
        "limits": Limits(celsius=HOTTEST_CELSIUS),
    }
    tasks = [make_task(artifact, recordings, **settings) for artifact in artifacts]
    results: list[list[Result]] = [[] for _ in artifacts]
    steps = conditions.rounds * len(artifacts)
    left_out: set[int] = set()
    for step in range(steps):
        turn, number = divmod(step, len(artifacts))
        if number in left_out:
            continue
        say(f"round {turn + 1} of {conditions.rounds}, {artifacts[number].name}", step / steps)
        try:
            results[number].append(device.run(tasks[number]))
        except AsrDeployError as error:
            if failed is None:
                raise
            left_out.add(number)
            failed(number, error)
    say("done", 1.0)
    for number, artifact in enumerate(artifacts):
        if number not in left_out and open_artifact(artifact.folder).manifest != artifact.manifest:
            raise AsrDeployError(f"{artifact.folder} was exported again during the measurement. Repeat the command.")
    measured = [each for each in range(len(artifacts)) if each not in left_out]
    return [_latency(artifacts[each], results[each], device, conditions, threads) for each in measured]


def _latency(artifact: Artifact, rounds: Sequence[Result], device: Device, conditions: Conditions, threads: int) -> LatencyResult:
    last = rounds[-1]
    steady = tuple(
        summarise(each.audio_seconds, [made.timings[number].samples for made in rounds]) for number, each in enumerate(last.timings)
    )
    starts = tuple(
        ColdStart.model_validate(made.model_dump(include=set(ColdStart.model_fields)))  # every finished latency job has them
        for made in rounds
    )
    grown = [each.peak_bytes - each.baseline_bytes for each in starts if each.peak_bytes is not None and each.baseline_bytes is not None]
    facts = last.device
    reasons = [*why_invalid(conditions, steady, facts, rounds[0].before.load_average)]
    reasons += dict.fromkeys(reason for made in rounds for reason in made.reasons)
    manifest = artifact.manifest.model_dump(include={"model", "weights", "trained", "format", "scheme", "parameters"})
    return LatencyResult(
        artifact=ArtifactFacts(**manifest, sha256=artifact.digest, size_bytes=artifact.size_bytes),
        threads=threads,
        provider=last.provider,
        conditions=conditions,
        device=device.name,
        facts=facts,
        runner=last.runner,
        versions=last.versions,
        host=machine_facts(),
        states=tuple((made.before, made.after) for made in rounds),
        cold=Cold(
            audio_seconds=max(each.audio_seconds for each in steady),
            starts=starts,
            median_load_seconds=float(np.median([each.load_seconds for each in starts])),
            median_first_inference_seconds=float(np.median([each.first_inference_seconds for each in starts])),
            median_memory_bytes=float(np.median(grown)) if grown else None,
        ),
        steady=steady,
        valid=not reasons,
        reasons=tuple(reasons),
    )


def summarise(audio_seconds: float, rounds: Sequence[Sequence[float]]) -> Steady:
    """Compute the statistics for one audio length.

    Percentiles interpolate linearly between samples, as numpy does by default. There is no p99 for fewer than 100 samples, because it
    would hardly differ from the maximum.

    Args:
        audio_seconds: Audio length in seconds.
        rounds: Samples of each round in seconds, at least one per round.
    """
    samples = np.array([sample for each in rounds for sample in each])
    mean = math.fsum(samples) / samples.size
    p50, p90, p95, p99 = (float(value) for value in np.percentile(samples, [50, 90, 95, 99]))
    return Steady(
        audio_seconds=audio_seconds,
        n=samples.size,
        min=float(samples.min()),
        mean=mean,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99 if samples.size >= 100 else None,
        std=float(samples.std(ddof=1)) if samples.size > 1 else 0.0,
        real_time_factor=mean / audio_seconds,
        spread=float(np.ptp([np.median(each) for each in rounds])) / p50,
        rounds=tuple(tuple(each) for each in rounds),
    )


def why_invalid(conditions: Conditions, steady: Sequence[Steady], facts: DeviceFacts, load_average: float | None) -> tuple[str, ...]:
    """Return the reasons why figures may not be quoted, or an empty tuple if they may.

    Args:
        conditions: How often and how long was measured.
        steady: Statistics for each audio length.
        facts: Facts about the device.
        load_average: Average number of runnable processes in the minute before the measurement, which belong to other programs.
            Ignored on phones, where it includes waiting threads of the kernel.
    """
    load = load_average if facts.kind == "host" and load_average is not None else 0.0
    checks = [
        (facts.kind in FUNCTION_ONLY, f"{facts.kind} device: it tests function only, and its times say nothing about a phone"),
        (conditions.name == QUICK.name, "the quick protocol is for trials only"),
        (conditions.rounds < STANDARD.rounds, f"rounds: {conditions.rounds}, fewer than {STANDARD.rounds}"),
        (conditions.warmup < STANDARD.warmup, f"warm-up runs: {conditions.warmup}, fewer than {STANDARD.warmup}"),
        (
            load > LARGEST_LOAD_PER_CPU * facts.logical_cpus,
            f"load average {load:.1f} on {facts.logical_cpus} CPUs: other programs were running",
        ),
    ]
    for each in steady:
        audio = f"{each.audio_seconds:g} s of audio"
        total = round(math.fsum(sample for samples in each.rounds for sample in samples), 9)  # samples are multiples of 1 ns
        checks += [
            (each.n < STANDARD.minimum_runs, f"{audio}: {each.n} runs, fewer than {STANDARD.minimum_runs}"),
            (total < STANDARD.minimum_seconds, f"{audio}: {total:.1f} s of runs, less than {STANDARD.minimum_seconds:g} s"),
            (each.spread > LARGEST_SPREAD, f"{audio}: the rounds differ by {each.spread:.0%}, more than {LARGEST_SPREAD:.0%}"),
        ]
    return tuple(reason for found, reason in checks if found)


def real_speech(utterances: list[Path], seconds: list[float], sample_rate: int) -> dict[float, Waveform]:
    """Return real speech of the given lengths.

    The recordings are concatenated, repeated if they are too short, and cut to each length. All lengths therefore begin with the same
    speech, and the same recordings always give the same audio.

    Args:
        utterances: Audio files with speech.
        seconds: Lengths in seconds.
        sample_rate: Sample rate in Hz.

    Returns:
        Waveforms ``[samples]`` as float32, by their length in seconds.

    Raises:
        AsrDeployError: If there is no recording, one cannot be read, or a length is not a positive number.
    """
    for length in seconds:
        if not math.isfinite(length) or round(length * sample_rate) < 1:
            raise AsrDeployError(f"An audio length must be a positive number of seconds, not {length:g}.")
    if not utterances:
        raise AsrDeployError("There is no recording to measure with. Give at least one audio file that contains speech.")
    samples = {length: round(length * sample_rate) for length in seconds}
    parts: list[Waveform] = []
    for path in utterances:
        if sum(part.size for part in parts) < max(samples.values(), default=0):
            parts.append(read_audio(path, sample_rate))
    return {length: np.resize(np.concatenate(parts), count) for length, count in samples.items()}
