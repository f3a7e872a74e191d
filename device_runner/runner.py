"""The Python runner: runs a job in this process, on a computer or, with the Arm bundle, on a phone."""

import base64
import contextlib
import gc
import importlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns

import soundfile

from device_runner.artifact import Artifact, open_stored
from device_runner.audio import read_audio
from device_runner.contract import (
    Audio,
    Heard,
    Job,
    Result,
    State,
    Timed,
    append_line,
    lines_path,
    read_job,
    read_lines,
    start_lines,
    write_result,
)
from device_runner.engines import Engine, Waveform, open_engine
from device_runner.errors import AsrDeployError
from device_runner.facts import device_facts, device_state, high_water_mark, package_versions
from device_runner.files import sha256_of
from device_runner.labels import select_labels

# Modules of the runtimes by format. They are imported before the model is loaded, so that the load time excludes the import.
RUNTIMES = {"onnx": "onnxruntime", "executorch": "executorch.runtime"}


@dataclass
class _Made:
    """What a job has produced so far. The result contains it even if the job fails."""

    transcripts: list[Heard] = field(default_factory=list)
    timings: list[Timed] = field(default_factory=list)
    resumed: int = 0
    import_seconds: float | None = None
    load_seconds: float | None = None
    first_inference_seconds: float | None = None
    baseline_bytes: int | None = None
    peak_bytes: int | None = None


def run_job(job_file: Path, result_file: Path) -> Result:
    """Run a job and write its result. If the job fails, the reason is the ``error`` of the result.

    An accuracy job resumes after the lines of an earlier process; a latency job starts from the beginning.

    Args:
        job_file: Job to run.
        result_file: Result to write. The lines file is written to the same folder.

    Raises:
        AsrDeployError: If the job cannot be read or the result cannot be written.
    """
    job, digest = read_job(job_file)
    lines = lines_path(result_file)
    made = _Made()
    made.transcripts = [] if job.mode == "latency" else read_lines(lines, digest)
    made.transcripts = made.transcripts if _fit(made.transcripts, job) else []
    made.resumed = len(made.transcripts)
    try:
        result_file.unlink(missing_ok=True)
    except OSError as problem:
        raise AsrDeployError(f"{result_file} cannot be replaced: {problem.strerror}. Choose another result file.") from problem
    start_lines(lines, digest, made.transcripts)
    before, error = device_state(), None
    try:
        _run(job, job_file.parent / job.files, lines, made)
    except AsrDeployError as problem:
        error = str(problem)
    except MemoryError:
        error = "The job requires more memory than is available. Use shorter recordings or a smaller model."
    after = device_state()
    reasons = why_not_quotable(job, before, after)
    result = Result(
        job=digest,
        runner="python",
        provider=job.provider,
        error=error,
        **vars(made),
        device=device_facts(),
        before=before,
        after=after,
        valid=error is None and not reasons,
        reasons=reasons,
        versions=package_versions(),
    )
    write_result(result_file, result)
    return result


def why_not_quotable(job: Job, before: State, after: State) -> tuple[str, ...]:
    """Return why the times of a latency job may not be quoted, judged by the state of the device.

    Args:
        job: Job that ran.
        before: State of the device before the job.
        after: State of the device after the job.
    """
    if job.mode == "accuracy":
        return ()
    reasons = []
    for when, state in (("before", before), ("after", after)):
        if job.limits.celsius is not None and state.battery_celsius is not None and state.battery_celsius > job.limits.celsius:
            reasons.append(f"battery too hot {when} the job: {state.battery_celsius:g} °C, more than {job.limits.celsius:g} °C")
        if state.thermal_status:
            reasons.append(f"throttled {when} the job: thermal status {state.thermal_status}")
    return tuple(reasons)


def _fit(heard: list[Heard], job: Job) -> bool:
    return [each.id for each in heard] == [each.id for each in job.audio[: len(heard)]]


def _run(job: Job, files: Path, lines: Path, made: _Made) -> None:
    artifact = open_stored(files, job.artifact)
    clock = _Clock(job.limits.seconds)
    remaining = job.audio[made.resumed :]
    if not remaining:
        return
    waveforms = {}  # an accuracy job reads one recording at a time, because a data set does not fit into a phone's memory
    if job.mode == "latency":
        waveforms = {each.id: _read(each, files, artifact) for each in job.audio}
        first = max(waveforms.values(), key=len)
    else:
        first = _read(remaining[0], files, artifact)
    engine = _load(job, artifact, made)
    clock.check()
    started = perf_counter_ns()
    engine.logits(first)
    made.first_inference_seconds = (perf_counter_ns() - started) / 1e9
    made.peak_bytes = high_water_mark()
    if job.mode == "latency":
        for each in job.audio:
            samples = _time(engine, waveforms[each.id], job, clock)
            seconds = len(waveforms[each.id]) / artifact.manifest.sample_rate
            made.timings.append(Timed(id=each.id, audio_seconds=seconds, samples=tuple(samples)))
            append_line(lines, made.timings[-1])
        return
    for each in remaining:
        made.transcripts.append(_hear(each, files, artifact, engine, with_logits=job.logits))
        append_line(lines, made.transcripts[-1])
        made.peak_bytes = high_water_mark()
        clock.check()


class _Clock:
    """Time limit of a job."""

    def __init__(self, limit: float | None) -> None:
        self._limit, self._started = limit, time.monotonic()

    def check(self) -> None:
        """Raise AsrDeployError if the time limit is exceeded."""
        if self._limit is not None and time.monotonic() - self._started > self._limit:
            raise AsrDeployError(f"The job exceeded its time limit of {self._limit:g} s. Finished recordings are kept.")


def _load(job: Job, artifact: Artifact, made: _Made) -> Engine:
    started = perf_counter_ns()
    with contextlib.suppress(ImportError):  # open_engine reports a missing runtime
        importlib.import_module(RUNTIMES.get(artifact.manifest.format, "device_runner.engines"))
    made.import_seconds = (perf_counter_ns() - started) / 1e9
    made.baseline_bytes = high_water_mark()
    started = perf_counter_ns()
    engine = open_engine(artifact, job.threads, job.provider)
    made.load_seconds = (perf_counter_ns() - started) / 1e9
    return engine


def _read(audio: Audio, files: Path, artifact: Artifact) -> Waveform:
    """Return a recording of a job as a waveform ``[samples]``."""
    path, rate = files / audio.sha256, artifact.manifest.sample_rate
    try:
        if not path.is_file():
            raise AsrDeployError(f"file {audio.sha256} is missing from {files}. Send it again.")
        if sha256_of(path) != audio.sha256:
            raise AsrDeployError(f"{path} does not match its sha256: it was changed or cut short. Send it again.")
        with contextlib.suppress(soundfile.SoundFileError):  # read_audio reports files that are not audio
            found = soundfile.info(path).samplerate
            if found != rate:
                raise AsrDeployError(f"{path} has a sample rate of {found} Hz; convert it to {rate} Hz, which the model requires.")
        return read_audio(path, rate)
    except AsrDeployError as error:
        raise AsrDeployError(f"{audio.id}: {error}") from error


def _hear(audio: Audio, files: Path, artifact: Artifact, engine: Engine, *, with_logits: bool) -> Heard:
    waveform = _read(audio, files, artifact)
    started = perf_counter_ns()
    try:
        logits = engine.logits(waveform)
    except AsrDeployError as error:
        raise AsrDeployError(f"{audio.id}: {error}") from error
    hypothesis = select_labels(logits, artifact.manifest.labels)
    seconds = (perf_counter_ns() - started) / 1e9
    return Heard(
        id=audio.id,
        audio_seconds=len(waveform) / artifact.manifest.sample_rate,
        hypothesis=hypothesis,
        compute_seconds=seconds,
        logits=base64.b64encode(logits.astype("<f4").tobytes()).decode() if with_logits else None,
    )


def _time(engine: Engine, waveform: Waveform, job: Job, clock: _Clock) -> list[float]:
    """Return the times of all timed runs of one recording in seconds."""
    for _ in range(job.warmup):
        engine.logits(waveform)
    nanoseconds = job.minimum_seconds * 1e9
    samples: list[int] = []
    total = 0
    with _no_collections():
        while len(samples) < job.repeats or total < nanoseconds:
            started = perf_counter_ns()
            engine.logits(waveform)
            samples.append(perf_counter_ns() - started)
            total += samples[-1]
            clock.check()
    return [each / 1e9 for each in samples]


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Disable the garbage collector during the timed runs."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def main(arguments: list[str]) -> int:
    """Run the command line ``JOB RESULT``; return exit code 0, or 2 after printing an error."""
    if len(arguments) != 2:
        print("usage: python -m device_runner JOB.json RESULT.json", file=sys.stderr)
        return 2
    try:
        error = run_job(*map(Path, arguments)).error
    except AsrDeployError as problem:
        error = str(problem)
    if error is not None:
        print(error, file=sys.stderr)
        return 2
    return 0
