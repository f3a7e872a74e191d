"""Test jobs: artifacts or exports with limits, which run on any device, for example in CI."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from device_runner.artifact import Artifact, open_artifact
from device_runner.devices import Device
from device_runner.documents import read_toml
from device_runner.errors import AsrDeployError, DeviceFailed, first_problem
from device_runner.files import file_name_of, write_record, write_text
from device_runner.home import NameOrPath, in_home
from device_runner.latency import FUNCTION_ONLY, QUICK, STANDARD, STRICT, LatencyResult, measure
from device_runner.transcripts import Timing, Transcript
from toolchain.accuracy.evaluation import evaluate_on_device
from toolchain.accuracy.scoring import Evaluation
from toolchain.data.datasets import open_data
from toolchain.data.speech import bundled_speech
from toolchain.extras import lacking
from toolchain.models.test_cases import case_of, is_built_in

PROTOCOLS = {each.name: each for each in (STANDARD, STRICT, QUICK)}
TIMED = ("p90_ms", "real_time_factor")  # limits that are not checked on emulated devices
Say = Callable[[str], None]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Export(_Record):
    """Options of ``asrdeploy export``."""

    model: int | NameOrPath = 0
    weights: NameOrPath | None = None
    format: str = "onnx"
    quant: str = "fp32"


class JobLimits(_Record):
    """Upper limits. A limit that is left out is not checked."""

    wer: float | None = Field(default=None, description="WER in per cent")
    artifact_mb: float | None = Field(default=None, description="size of the model files in 10^6 bytes")
    c_size: float | None = Field(default=None, description="transmitted bits divided by the bits of the anchor")
    p90_ms: float | None = Field(default=None, description="90th percentile of latency in milliseconds, for every length of audio")
    real_time_factor: float | None = Field(default=None, description="mean compute seconds per second of audio, for every length")
    peak_memory_mb: float | None = Field(
        default=None, description="peak memory above the baseline in 10^6 bytes, median over new processes"
    )
    parity: float | None = Field(
        default=None, description="relative distance of the device's logits to the fp32 model in PyTorch on this machine"
    )

    @model_validator(mode="after")
    def _finite(self) -> "JobLimits":
        for name, value in self:
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of at least 0")
        return self


class JobEntry(_Record):
    """One test job: an artifact or an export, its test set, its latency measurement and its limits."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    artifact: Annotated[Path, AfterValidator(in_home)] | None = None
    export: Export | None = None
    data: NameOrPath = "digits"
    split: str = "test-clean"
    limit: Annotated[int, Field(gt=0)] | None = None
    seconds: tuple[Annotated[float, Field(gt=0, le=60)], ...] = (2.0,)
    protocol: Literal["standard", "strict", "quick"] = "standard"
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    provider: Literal["cpu", "xnnpack", "nnapi"] = "cpu"
    limits: JobLimits

    @model_validator(mode="after")
    def _one_source(self) -> "JobEntry":
        if (self.artifact is None) == (self.export is None):
            raise ValueError("a job needs either artifact or export")
        if all(value is None for _, value in self.limits):
            raise ValueError("a job needs at least one limit")
        return self


class JobFile(_Record):
    """The file that ``asrdeploy test`` reads."""

    job: Annotated[tuple[JobEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> "JobFile":
        folders = [file_name_of(each.name) for each in self.job]
        if len(set(folders)) != len(folders):
            raise ValueError("two jobs have the same folder name; names must differ in letters or digits")
        if any(not each.strip(".") for each in folders):
            raise ValueError("the name of a job names a folder and cannot consist of dots")
        return self


@dataclass(frozen=True)
class Check:
    """One limit and the measured value.

    Args:
        limit: Name of the limit.
        most: The limit.
        found: Measured value; None if the limit is not checked.
        ignored: Why the limit is not checked.
    """

    limit: str
    most: float
    found: float | None
    ignored: str | None = None

    @property
    def broken(self) -> bool:
        """Whether the value exceeds the limit."""
        return self.found is not None and self.found > self.most


@dataclass(frozen=True)
class Outcome:
    """Result of a job: its checks, or the ``problem`` that kept it from running. ``device_failed``: the device caused the problem."""

    job: str
    checks: tuple[Check, ...] = ()
    problem: str | None = None
    device_failed: bool = False

    @property
    def broken(self) -> bool:
        """Whether a limit is exceeded."""
        return any(each.broken for each in self.checks)


def read_job_file(path: Path) -> JobFile:
    """Read a job file. Paths of artifacts and custom models are relative to the file.

    Raises:
        AsrDeployError: The file does not exist, is not TOML, or contains an unknown key or value.
    """
    if not path.exists():
        raise AsrDeployError(f"{path} does not exist. See docs/ci.md for an example of a job file.")
    try:
        found = JobFile.model_validate(read_toml(path, "job file"))
    except ValidationError as error:
        raise AsrDeployError(f"{path}: {first_problem(error)}.") from error
    return JobFile(job=tuple(_placed(each, path.parent) for each in found.job))


def _placed(job: JobEntry, folder: Path) -> JobEntry:
    """Return a job with paths relative to the current folder instead of the job file."""
    if job.artifact is not None:
        return job.model_copy(update={"artifact": folder / job.artifact})
    assert job.export is not None  # JobEntry has exactly one of the two
    place = folder / str(job.export.model)
    if is_built_in(str(job.export.model)) or not place.exists():
        return job
    return job.model_copy(update={"export": job.export.model_copy(update={"model": str(place)})})


def run_test_job(job: JobEntry, device: Device, folder: Path, say: Say = lambda sentence: None) -> Outcome:
    """Run one job. A problem that the user can fix does not stop the other jobs: it becomes the outcome.

    Args:
        job: The job.
        device: Device that runs it.
        folder: Output folder for artifact, transcripts and results.
        say: Called with the current step.
    """

    def told(step: str) -> None:
        say(f"{job.name}: {step}")

    try:
        artifact = _artifact(job, folder, told)
        return Outcome(job.name, tuple(_checks(job, artifact, device, folder, told)))
    except AsrDeployError as error:
        return Outcome(job.name, problem=str(error), device_failed=isinstance(error, DeviceFailed))
    except ModuleNotFoundError as error:
        sentence = lacking(error)
        if sentence is None:
            raise
        return Outcome(job.name, problem=sentence)
    except OSError as error:  # such as a full disk; other jobs may still run
        return Outcome(job.name, problem=f"{error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")


def _artifact(job: JobEntry, folder: Path, say: Say) -> Artifact:
    if job.artifact is not None:
        return open_artifact(job.artifact)
    from exporters.export import check_choice
    from toolchain.models.loading import load_model
    from toolchain.scenario.exporting import export_model

    assert job.export is not None  # JobEntry has exactly one of the two
    check_choice(job.export.format, job.export.quant)
    say("exporting")
    model = load_model(str(job.export.model), job.export.weights)
    # The job's folder belongs to the job: an artifact that it exported before is replaced.
    return export_model(model, folder / "artifact", format=job.export.format, quant=job.export.quant, replace=True).artifact


def _checks(job: JobEntry, artifact: Artifact, device: Device, folder: Path, say: Say) -> list[Check]:
    wanted = {name: value for name, value in job.limits if value is not None}
    found: dict[str, float | None] = {"artifact_mb": artifact.size_bytes / 1e6}
    if "c_size" in wanted:
        found["c_size"] = artifact.transmitted_bits / case_of(artifact.manifest).anchor.size_bits
    if "wer" in wanted:
        found["wer"] = 100 * _evaluated(job, artifact, device, folder, say).wer
    emulated = device.kind in FUNCTION_ONLY
    if "peak_memory_mb" in wanted or (not emulated and any(name in wanted for name in TIMED)):
        found |= _measured(job, artifact, device, folder, say)
    if "parity" in wanted:
        from toolchain.accuracy.parity import distance_to_torch

        say("comparing logits with PyTorch")
        model, weights = (str(job.export.model), job.export.weights) if job.export else (None, None)
        found["parity"] = distance_to_torch(artifact, device, model, threads=job.threads, weights=weights)
    checks = []
    for name, most in wanted.items():
        if name in TIMED and emulated:
            checks.append(Check(name, most, None, f"ignored: {device.name} is emulated, so its times say nothing about a phone"))
        elif found.get(name) is None:
            raise AsrDeployError(
                f"{device.name} does not report its memory, so peak_memory_mb cannot be checked. Leave it out of the limits."
            )
        else:
            checks.append(Check(name, most, found[name]))
    return checks


def _evaluated(job: JobEntry, artifact: Artifact, device: Device, folder: Path, say: Say) -> Evaluation:
    data = open_data(job.data, job.split)
    data = data if job.limit is None else data.limited(job.limit)
    count = 0

    def transcribed(transcript: Transcript, timing: Timing) -> None:
        nonlocal count
        count += 1
        say(f"transcribing {count} of {len(data.utterances)}")

    # The job's folder belongs to the job: an evaluation of the artifact that it exported before is replaced.
    return evaluate_on_device(
        artifact, data, folder / "evaluation", device, threads=job.threads, provider=job.provider, replace=True, progress=transcribed
    )


def _measured(job: JobEntry, artifact: Artifact, device: Device, folder: Path, say: Say) -> dict[str, float | None]:
    waveforms = bundled_speech(list(job.seconds), artifact.manifest.sample_rate)
    (result,) = measure(
        [artifact],
        waveforms,
        device=device,
        threads=job.threads,
        provider=job.provider,
        conditions=PROTOCOLS[job.protocol],
        progress=lambda what, share: say(what),
    )
    write_record(folder / "latency.json", result)
    return _figures(result)


def _figures(result: LatencyResult) -> dict[str, float | None]:
    memory = result.cold.median_memory_bytes
    return {
        "p90_ms": max(1000 * each.p90 for each in result.steady),
        "real_time_factor": max(each.real_time_factor for each in result.steady),
        "peak_memory_mb": None if memory is None else memory / 1e6,
    }


def write_junit(outcomes: list[Outcome], device: str, seconds: dict[str, float], path: Path) -> None:
    """Write outcomes as JUnit XML: one suite per job, one case per limit. A job that could not run is an error.

    Args:
        outcomes: Outcomes of the jobs.
        device: Name of the device.
        seconds: Duration of every job, by name.
        path: File to write.
    """
    root = ElementTree.Element("testsuites", name="asrdeploy")
    for outcome in outcomes:
        checks = outcome.checks
        counts: dict[str, Any] = {
            "tests": len(checks) or 1,
            "failures": sum(each.broken for each in checks),
            "errors": int(outcome.problem is not None),
            "skipped": sum(each.ignored is not None for each in checks),
        }
        attributes = {name: str(value) for name, value in counts.items()} | {"time": f"{seconds[outcome.job]:.3f}"}
        suite = ElementTree.SubElement(root, "testsuite", {"name": f"{outcome.job} on {device}"} | attributes)
        if outcome.problem is not None:
            case = ElementTree.SubElement(suite, "testcase", name="run", classname=outcome.job)
            ElementTree.SubElement(case, "error", message=outcome.problem)
        for check in checks:
            case = ElementTree.SubElement(suite, "testcase", name=check.limit, classname=outcome.job)
            if check.ignored is not None:
                ElementTree.SubElement(case, "skipped", message=check.ignored)
            elif check.broken:
                ElementTree.SubElement(case, "failure", message=f"{check.limit} is {check.found:.4g}, more than {check.most:g}")
    ElementTree.indent(root)
    write_text(path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n")
