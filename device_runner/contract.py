"""The contract of all runners: a job file in, a result file out (docs/devices.md; JSON Schemas in docs/schemas).

The Python runner, the JVM core and the Android app all read and write these files. The files that a job needs are in one folder and
named by their sha256, so that no file is sent to a device twice. While a job runs, the runner appends a line to ``RESULT.jsonl`` for
every finished recording. The host shows these lines as progress, and an interrupted job resumes after them.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from device_runner.errors import AsrDeployError, first_problem
from device_runner.files import write_record, write_text

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0)]
Kind = Literal["host", "emulated", "emulator", "phone"]
Model = TypeVar("Model", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Audio(_Record):
    """A recording: mono WAV, 16 bit or 32-bit float, at the artifact's sample rate."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    sha256: Digest


class Limits(_Record):
    """Limits of a job."""

    seconds: Annotated[float, Field(gt=0)] | None = Field(default=None, description="time limit of the job; it ends with an error after it")
    celsius: float | None = Field(
        default=None, description="highest battery temperature before and after a latency job; its result is not valid above it"
    )


class Job(_Record):
    """What to run: either accuracy (transcribe recordings) or latency (time repeated runs on fixed inputs, after a warm-up)."""

    version: Literal[1] = 1
    mode: Literal["accuracy", "latency"]
    artifact: Digest = Field(description="sha256 of the artifact's manifest.json, which lists the sha256 of its files")
    files: str = Field(default="files", description="folder of the files, relative to the job's folder; files are named by their sha256")
    audio: Annotated[tuple[Audio, ...], Field(min_length=1, fail_fast=True)]
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    provider: Literal["cpu", "xnnpack", "nnapi"] = Field(default="cpu", description="execution provider of ONNX Runtime")
    logits: bool = Field(default=False, description="accuracy: whether to return the logits, for comparing devices")
    warmup: Annotated[int, Field(ge=0)] = Field(default=0, description="latency: number of warm-up runs per recording, which are discarded")
    repeats: Annotated[int, Field(ge=1)] = Field(default=1, description="latency: minimum number of timed runs per recording")
    minimum_seconds: Seconds = Field(default=0.0, description="latency: minimum total time of the timed runs per recording")
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _names_tell_recordings_apart(self) -> "Job":
        if len({each.id for each in self.audio}) != len(self.audio):
            raise ValueError("two recordings have the same id")
        return self


class Heard(_Record):
    """A line of an accuracy job: the hypothesis of one recording. References stay on the host, which scores."""

    id: str
    audio_seconds: Annotated[float, Field(gt=0)]
    hypothesis: str
    compute_seconds: Seconds
    logits: str | None = Field(default=None, description="if the job asks for them: base64 of little-endian float32 [frames, labels]")


class Timed(_Record):
    """A line of a latency job: the times of all timed runs of one recording in seconds, in chronological order."""

    id: str
    audio_seconds: Annotated[float, Field(gt=0)]
    samples: Annotated[tuple[Seconds, ...], Field(min_length=1, fail_fast=True)]


class DeviceFacts(_Record):
    """The device that a job ran on, as reported by the runner."""

    kind: Kind = Field(description="host: a computer; emulated: Arm instructions under qemu; emulator: an Android emulator; phone")
    model: str
    cpu: str
    cpu_features: tuple[str, ...] = ()
    int8_exact: bool | None = Field(description="whether 8-bit products are summed without saturation; None if unknown")
    abi: str
    system: str = Field(description="operating system and build")
    logical_cpus: Annotated[int, Field(ge=1)]
    memory_bytes: Annotated[int, Field(ge=0)]


class State(_Record):
    """State of a device that may change while a job runs; None or empty if the device does not report it."""

    celsius: dict[str, float] = Field(default_factory=dict, description="temperature of each sensor")
    kilohertz: tuple[int, ...] = Field(default=(), description="frequency of each CPU")
    load_average: float | None = None
    battery_celsius: float | None = None
    battery_percent: float | None = None
    charging: bool | None = None
    screen_on: bool | None = None
    thermal_status: int | None = Field(
        default=None, description="Android's thermal status, from 0 (none) to 6 (shutdown); the device throttles above 0"
    )


class Result(_Record):
    """Result of a job. Times are in seconds of the monotonic clock and cover only the call of the runtime."""

    version: Literal[1] = 1
    job: Digest = Field(description="sha256 of the job file")
    runner: str = Field(description="python, jvm or app")
    provider: str = "cpu"
    error: str | None = Field(default=None, description="why the job did not finish")
    transcripts: tuple[Heard, ...] = Field(default=(), fail_fast=True, description="accuracy: transcripts in the order of the job")
    timings: tuple[Timed, ...] = Field(default=(), fail_fast=True, description="latency: times in the order of the job")
    resumed: int = Field(default=0, description="accuracy: number of recordings that an earlier process had finished")
    import_seconds: Seconds | None = Field(default=None, description="time to import the runtime")
    load_seconds: Seconds | None = Field(default=None, description="time to load the model file into a session that can run")
    first_inference_seconds: Seconds | None = Field(default=None, description="accuracy: of the first recording; latency: of the longest")
    baseline_bytes: int | None = Field(default=None, description="peak resident memory before the model is loaded")
    peak_bytes: int | None = Field(default=None, description="peak resident memory after the first inference; accuracy: at the end")
    device: DeviceFacts
    before: State = State()
    after: State = State()
    valid: bool
    reasons: tuple[str, ...] = Field(default=(), description="why the times may not be quoted; empty if valid")
    versions: dict[str, str] = Field(description="versions of the runner, the runtime and parts of the system")


def job_digest(text: str) -> str:
    """Return the sha256 of a job file's content, by which a result identifies its job."""
    return hashlib.sha256(text.encode()).hexdigest()


def job_text(job: Job) -> str:
    """Return the content of a job file. The same job always gives the same bytes."""
    return job.model_dump_json(indent=2) + "\n"


def read_job(path: Path) -> tuple[Job, str]:
    """Read a job file and return the job with its sha256.

    Raises:
        AsrDeployError: If the file is missing, cannot be read or is not a valid job.
    """
    text = _text(path, "job")
    return _parsed(Job, text, f"{path} is not a valid job"), job_digest(text)


def read_result(path: Path) -> Result:
    """Read a result file.

    Raises:
        AsrDeployError: If the file is missing, cannot be read or is not a valid result.
    """
    return _parsed(Result, _text(path, "result"), f"{path} is not a valid result")


def write_result(path: Path, result: Result) -> None:
    """Write a result file atomically, because its existence means that the job has ended."""
    write_record(path, result)


def lines_path(result: Path) -> Path:
    """Return the path of the lines file that belongs to a result file."""
    return result.with_name(result.name + "l") if result.suffix == ".json" else result.with_name(result.name + ".jsonl")


def read_lines(path: Path, job: str) -> list[Heard]:
    """Return the transcripts that earlier processes of an accuracy job finished.

    Args:
        path: Lines file; see ``lines_path``.
        job: SHA-256 of the job, which must be in the first line.

    Returns:
        The transcripts, or an empty list if the lines are missing, damaged or of another job.
    """
    if not path.is_file():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]  # the last part is empty, or a line that was not finished
    try:
        if not whole or json.loads(whole[0]) != {"job": job}:
            return []
        return [Heard.model_validate_json(line) for line in whole[1:]]
    except (ValueError, RecursionError):
        return []


def parse_line(line: bytes) -> Heard | Timed | None:
    """Parse a complete line of a lines file; return None for the first line, which names the job.

    Raises:
        AsrDeployError: If the line does not belong to a lines file.
    """
    try:
        values = json.loads(line)
        if isinstance(values, dict) and values.keys() == {"job"}:
            return None
        return (Timed if "samples" in values else Heard).model_validate(values)
    except (ValueError, TypeError, RecursionError) as error:
        raise AsrDeployError(f"The device sent a line that is not part of a result: {line[:80]!r}. Repeat the command.") from error


def start_lines(path: Path, job: str, heard: Iterable[Heard] = ()) -> None:
    """Start a lines file with the line that names the job and the transcripts kept from an earlier process."""
    write_text(path, json.dumps({"job": job}) + "\n" + "".join(each.model_dump_json() + "\n" for each in heard))


def append_line(path: Path, line: Heard | Timed) -> None:
    """Append a line; the lines before it survive if the process is killed.

    Raises:
        AsrDeployError: If the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")
    except OSError as error:
        raise AsrDeployError(f"Cannot write {path}: {error.strerror or error}. Recordings finished before are kept.") from error


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas of the contract by file name; docs/schemas has a copy of each."""
    from device_runner.artifact import Manifest

    models: dict[str, type[BaseModel]] = {"job": Job, "result": Result, "manifest": Manifest, "heard": Heard, "timed": Timed}
    return {f"{name}.v1.schema.json": model.model_json_schema() for name, model in models.items()}


def _text(path: Path, what: str) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise AsrDeployError(f"There is no {what} file {path}. Check the path.") from error
    except OSError as error:
        raise AsrDeployError(f"The {what} file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise AsrDeployError(f"{path} is not a valid {what}: it is not UTF-8 text.") from error


def _parsed(model: type[Model], text: str, sentence: str) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise AsrDeployError(f"{sentence}: {first_problem(error)}.") from error
