"""The contract of every runner: one Job file in, one Result file out (docs/devices.md; docs/schemas has both as JSON Schemas).

The Python runner, the JVM core and the Android app read and write just these. Every file that a job needs lies in one folder under
its sha256 as its name, so that nothing is sent to a device twice. Beside the result, ``RESULT.jsonl`` grows by a line whenever something
is finished: what a host shows while the job runs, and where a job that was cut off goes on.
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
    """Where a job stops, and where its times stop counting."""

    seconds: Annotated[float, Field(gt=0)] | None = Field(default=None, description="the job ends with an error after this time")
    celsius: float | None = Field(default=None, description="a latency job whose battery is hotter before or after it is not valid")


class Job(_Record):
    """What to run. Two kinds, never mixed: accuracy (transcripts of a set) and latency (fixed inputs, warm-up, many repeats)."""

    version: Literal[1] = 1
    mode: Literal["accuracy", "latency"]
    artifact: Digest = Field(description="sha256 of the artifact's manifest.json, which names its files' sha256")
    files: str = Field(default="files", description="folder of the files, relative to the job's; a file's name there is its sha256")
    audio: Annotated[tuple[Audio, ...], Field(min_length=1)]
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    provider: Literal["cpu", "xnnpack", "nnapi"] = Field(default="cpu", description="what ONNX Runtime computes with")
    logits: bool = Field(default=False, description="accuracy: every line has its logits, for comparing devices")
    warmup: Annotated[int, Field(ge=0)] = Field(default=0, description="latency: runs discarded before every recording's timed ones")
    repeats: Annotated[int, Field(ge=1)] = Field(default=1, description="latency: timed runs of every recording at least")
    minimum_seconds: Seconds = Field(default=0.0, description="latency: sum of the timed runs of every recording at least")
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _names_tell_recordings_apart(self) -> "Job":
        if len({each.id for each in self.audio}) != len(self.audio):
            raise ValueError("two recordings have the same id")
        return self


class Heard(_Record):
    """A line of an accuracy job: what was heard in one recording. References stay with the host, which scores."""

    id: str
    audio_seconds: Annotated[float, Field(gt=0)]
    hypothesis: str
    compute_seconds: Seconds
    logits: str | None = Field(default=None, description="where the job asks: base64 of little-endian float32 [frames, labels]")


class Timed(_Record):
    """A line of a latency job: every timed run of one recording, in the order of time [s]."""

    id: str
    audio_seconds: Annotated[float, Field(gt=0)]
    samples: Annotated[tuple[Seconds, ...], Field(min_length=1)]


class DeviceFacts(_Record):
    """What a job ran on, as its runner sees it."""

    kind: Kind = Field(description="host: a computer; emulated: Arm instructions by qemu; emulator: Android's; phone")
    model: str
    cpu: str
    cpu_features: tuple[str, ...] = ()
    int8_exact: bool | None = Field(description="8-bit products are summed without saturation; None: not known")
    abi: str
    system: str = Field(description="operating system and its build")
    logical_cpus: Annotated[int, Field(ge=1)]
    memory_bytes: Annotated[int, Field(ge=0)]


class State(_Record):
    """What may change while a job runs; what the device does not tell is None or empty."""

    celsius: dict[str, float] = Field(default_factory=dict, description="temperatures by sensor")
    kilohertz: tuple[int, ...] = Field(default=(), description="frequency of every CPU")
    load_average: float | None = None
    battery_celsius: float | None = None
    battery_percent: float | None = None
    charging: bool | None = None
    screen_on: bool | None = None
    thermal_status: int | None = Field(default=None, description="Android's, 0: none … 6: shutdown; above 0 it throttles")


class Result(_Record):
    """What came of a job. Times in seconds of the monotonic clock, around the runtime's call alone."""

    version: Literal[1] = 1
    job: Digest = Field(description="sha256 of the job file")
    runner: str = Field(description="python, jvm or app")
    provider: str = "cpu"
    error: str | None = Field(default=None, description="why the job could not be run to its end, in one sentence")
    transcripts: tuple[Heard, ...] = Field(default=(), description="accuracy: in the job's order")
    timings: tuple[Timed, ...] = Field(default=(), description="latency: in the job's order")
    resumed: int = Field(default=0, description="accuracy: recordings that an earlier process had finished")
    import_seconds: Seconds | None = Field(default=None, description="bringing the runtime in")
    load_seconds: Seconds | None = Field(default=None, description="from the model file to a session that can run")
    first_inference_seconds: Seconds | None = Field(default=None, description="accuracy: of the first recording; latency: of the longest")
    baseline_bytes: int | None = Field(default=None, description="high-water mark of resident memory before the load")
    peak_bytes: int | None = Field(default=None, description="high-water mark after the first inference; accuracy: at the end")
    device: DeviceFacts
    before: State = State()
    after: State = State()
    valid: bool
    reasons: tuple[str, ...] = Field(default=(), description="why the times may not be quoted; empty where valid")
    versions: dict[str, str] = Field(description="of the runner, the runtime and the system's parts")


def job_digest(text: str) -> str:
    """Return what a result names its job by: the sha256 of the job file's bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def job_text(job: Job) -> str:
    """Return the content of a job file; the same job always gives the same bytes."""
    return job.model_dump_json(indent=2) + "\n"


def read_job(path: Path) -> tuple[Job, str]:
    """Read a job file; return it and its sha256.

    Raises:
        AsrDeployError: no such file, or it is no job of this version.
    """
    text = _text(path, "job")
    return _parsed(Job, text, f"{path} is not a job"), job_digest(text)


def read_result(path: Path) -> Result:
    """Read a result file.

    Raises:
        AsrDeployError: no such file, or it is no result of this version.
    """
    return _parsed(Result, _text(path, "result"), f"{path} is not a result")


def write_result(path: Path, result: Result) -> None:
    """Write a result file, whole or not at all: its being there says that the job has ended."""
    write_record(path, result)


def lines_path(result: Path) -> Path:
    """Return the file of lines beside a result."""
    return result.with_name(result.name + "l") if result.suffix == ".json" else result.with_name(result.name + ".jsonl")


def read_lines(path: Path, job: str) -> list[Heard]:
    """Return what earlier processes of an accuracy job had heard; nothing where the lines are of another job, damaged or missing.

    Args:
        path: see ``lines_path``.
        job: sha256 of the job; the first line names it.
    """
    if not path.is_file():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]  # the last one was cut off while it was written, or is empty
    try:
        if not whole or json.loads(whole[0]) != {"job": job}:
            return []
        return [Heard.model_validate_json(line) for line in whole[1:]]
    except ValueError:
        return []


def parse_line(line: bytes) -> Heard | Timed | None:
    """Return a whole line of a job; None for the first one, which names the job.

    Raises:
        AsrDeployError: it is no line of a job.
    """
    try:
        values = json.loads(line)
        if isinstance(values, dict) and values.keys() == {"job"}:
            return None
        return (Timed if "samples" in values else Heard).model_validate(values)
    except (ValueError, TypeError) as error:
        raise AsrDeployError(f"The device sent a line that is no part of a result: {line[:80]!r}.") from error


def start_lines(path: Path, job: str, heard: Iterable[Heard] = ()) -> None:
    """Write the first line, and those that are kept of an earlier process."""
    write_text(path, json.dumps({"job": job}) + "\n" + "".join(each.model_dump_json() + "\n" for each in heard))


def append_line(path: Path, line: Heard | Timed) -> None:
    """Append a line; a process that is killed keeps every line before."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")
    except OSError as error:
        raise AsrDeployError(f"Cannot write {path}: {error.strerror or error}; what was finished before is kept.") from error


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas of the contract's files by their names."""
    from device_runner.artifact import Manifest

    models: dict[str, type[BaseModel]] = {"job": Job, "result": Result, "manifest": Manifest, "heard": Heard, "timed": Timed}
    return {f"{name}.v1.schema.json": model.model_json_schema() for name, model in models.items()}


def _text(path: Path, what: str) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise AsrDeployError(f"There is no {what} file {path}.") from error
    except OSError as error:
        raise AsrDeployError(f"The {what} file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise AsrDeployError(f"{path} is not a {what}: it is not text.") from error


def _parsed(model: type[Model], text: str, sentence: str) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise AsrDeployError(f"{sentence} of this version: {first_problem(error)}.") from error
