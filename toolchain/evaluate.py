"""Accuracy runs: transcripts of a set, the word error rate they give, and the result file."""

import json
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.contract import Heard, Kind
from device_runner.devices import Device
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts
from device_runner.files import write_json, write_text
from device_runner.jobs import make_task
from device_runner.transcripts import Transcript, append_transcript, read_transcripts, rewrite_transcripts
from toolchain.datasets import DataSet, Utterance
from toolchain.metrics import bootstrap_interval, count_errors
from toolchain.subjects import Subject, describe

TRANSCRIPTS, RESULT, SETTINGS = "transcripts.jsonl", "result.json", "settings.json"


class Evaluation(BaseModel):
    """The result of an accuracy run. Sizes in bits, times in seconds, word error rates as fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    configuration: str
    model: str | None
    identity: str
    data: str
    split: str
    utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float = Field(description="corpus word error rate by torcheval, equal to the counts above over the words")
    wer_interval: tuple[float, float] = Field(description="95 % bootstrap over utterances")
    size_bits: int = Field(description="bits transmitted to the UE")
    c_size: float | None = Field(description="size_bits over the bits of the anchor")
    artifact_bytes: int | None
    audio_seconds: float
    compute_seconds: float
    real_time_factor: float
    threads: int
    device: str = Field(default="local", description="what ran it, as --device names it")
    kind: Kind = Field(default="host", description="the times of emulated and emulator say nothing about a phone")
    machine: dict[str, Any] = Field(description="facts about the device, versions included")


def evaluate(
    subject: Subject, data: DataSet, folder: Path, *, threads: int, progress: Callable[[Transcript], None] = lambda transcript: None
) -> Evaluation:
    """Transcribe a set, batch 1 and exact length, and score it; a stopped run goes on where it was.

    ``folder`` gets ``transcripts.jsonl``, ``result.json`` and ``settings.json``; transcripts of another model, set or
    setting are not mixed with: the run starts anew.

    Raises:
        AsrDeployError: random weights, audio that cannot be read, or a folder that cannot be written.
    """
    check_trained(subject)
    done = _earlier_transcripts(_settings(subject, data, threads), data, folder)
    for transcript in done:
        progress(transcript)
    for utterance in islice(data.utterances, len(done), None):
        waveform = read_audio(utterance.path, subject.sample_rate)
        started = time.perf_counter()
        try:
            hypothesis = subject.hear(waveform)
        except AsrDeployError as error:
            raise AsrDeployError(f"{utterance.path}: {error}") from error
        seconds = time.perf_counter() - started
        transcript = _transcript(utterance, hypothesis, len(waveform) / subject.sample_rate, seconds)
        append_transcript(folder / TRANSCRIPTS, transcript)
        done.append(transcript)
        progress(transcript)
    result = score(done, subject, data, threads)
    write_text(folder / RESULT, result.model_dump_json(indent=2) + "\n")
    return result


def evaluate_on_device(
    artifact: Artifact,
    data: DataSet,
    folder: Path,
    device: Device,
    *,
    threads: int,
    provider: str = "cpu",
    via: str | None = None,
    progress: Callable[[Transcript], None] = lambda transcript: None,
) -> Evaluation:
    """Transcribe a set on a device and score it here; ``folder`` as in ``evaluate``; ``via``: the way onto it that was asked for.

    What the device has finished stays there until the whole result was taken, so a stopped run goes on where it was.

    Raises:
        AsrDeployError: random weights, audio that cannot be read, a device that fails, or a folder that cannot be written.
    """
    subject = describe(artifact)
    check_trained(subject)
    _earlier_transcripts(_device_settings(subject, data, device.name, threads, provider, via), data, folder)
    utterances = {each.id: each for each in data.utterances}

    def transcript_of(line: Heard) -> Transcript:
        return _transcript(utterances[line.id], line.hypothesis, line.audio_seconds, line.compute_seconds)

    recordings = ((each.id, read_audio(each.path, subject.sample_rate)) for each in data.utterances)
    task = make_task(artifact, recordings, mode="accuracy", threads=threads, provider=provider)
    made = device.run(task, lambda line: progress(transcript_of(line)) if isinstance(line, Heard) else None)
    done = [transcript_of(line) for line in made.transcripts]
    if [each.id for each in done] != list(utterances):
        raise AsrDeployError(f"{device.name} sent transcripts of other utterances than it was given; run it again.")
    facts = made.device.model_dump() | {"versions": made.versions, "runner": made.runner, "commit": machine_facts()["commit"]}
    result = score(done, subject, data, threads).model_copy(update={"device": device.name, "kind": made.device.kind, "machine": facts})
    rewrite_transcripts(folder / TRANSCRIPTS, done)
    write_text(folder / RESULT, result.model_dump_json(indent=2) + "\n")
    return result


def finished_on_device(
    artifact: Artifact, data: DataSet, folder: Path, device: str, *, threads: int, provider: str = "cpu", via: str | None = None
) -> Evaluation | None:
    """Return the result of an earlier ``evaluate_on_device`` with the same settings; None: there is none.

    Raises:
        AsrDeployError: the folder holds something else.
    """
    if not (folder / RESULT).is_file():
        return None
    done = _earlier_transcripts(_device_settings(describe(artifact), data, device, threads, provider, via), data, folder)
    whole = len(done) == len(data.utterances) and (folder / RESULT).is_file()
    return Evaluation.model_validate_json((folder / RESULT).read_text()) if whole else None


def _device_settings(subject: Subject, data: DataSet, device: str, threads: int, provider: str, via: str | None) -> dict[str, Any]:
    return _settings(subject, data, threads) | {"device": device, "provider": provider, "via": via}


def _transcript(utterance: Utterance, hypothesis: str, audio_seconds: float, compute_seconds: float) -> Transcript:
    counts = count_errors(utterance.reference, hypothesis)
    return Transcript(
        id=utterance.id,
        audio_seconds=audio_seconds,
        reference=utterance.reference,
        hypothesis=hypothesis,
        substitutions=counts.substitutions,
        deletions=counts.deletions,
        insertions=counts.insertions,
        words=counts.words,
        compute_seconds=compute_seconds,
    )


def check_trained(subject: Subject) -> None:
    """Raise AsrDeployError for random weights: their word error rate would be taken for a result."""
    if not subject.trained:
        raise AsrDeployError(
            f"{subject.configuration} has random weights: a word error rate from them says nothing; bench it, or use trained weights."
        )


def _settings(subject: Subject, data: DataSet, threads: int) -> dict[str, Any]:
    """Return what decides a run's transcripts: where it changes, a run starts anew."""
    return {"identity": subject.identity, "data": data.digest, "threads": threads}


def _earlier_transcripts(settings: dict[str, Any], data: DataSet, folder: Path) -> list[Transcript]:
    """Return what an earlier run of the same thing left, and make the folder ready to go on."""
    transcripts, written = folder / TRANSCRIPTS, folder / SETTINGS
    try:
        earlier = json.loads(written.read_text())
    except (OSError, ValueError):
        earlier = None
    ours = isinstance(earlier, dict) and earlier.keys() >= {"identity", "data", "threads"}
    if not ours and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise AsrDeployError(f"{folder} exists and holds no evaluation; choose another folder for the results.")
    if earlier != settings:
        # In this order: a run that stops in between leaves no transcripts under settings that are not theirs.
        transcripts.unlink(missing_ok=True)
        (folder / RESULT).unlink(missing_ok=True)
        write_json(written, settings)
        return []
    done = read_transcripts(transcripts)
    if [each.id for each in done] != [utterance.id for utterance in data.utterances[: len(done)]]:
        raise AsrDeployError(f"{transcripts} does not fit the data set: remove it and evaluate again.")
    rewrite_transcripts(transcripts, done)
    return done


def score(transcripts: Sequence[Transcript], subject: Subject, data: DataSet, threads: int) -> Evaluation:
    """Score transcripts; the corpus word error rate comes from torcheval and is checked against our own counts.

    Raises:
        AsrDeployError: the two disagree.
    """
    errors, words = sum(each.errors for each in transcripts), sum(each.words for each in transcripts)
    wer = _torcheval_wer(transcripts)
    if abs(wer - errors / words) > 1e-6:
        raise AsrDeployError(f"torcheval's word error rate {wer:.6f} and our counts {errors}/{words} disagree; please report it.")
    audio, compute = sum(each.audio_seconds for each in transcripts), sum(each.compute_seconds for each in transcripts)
    return Evaluation(
        configuration=subject.configuration,
        model=subject.case.name if subject.case else None,
        identity=subject.identity,
        data=data.name,
        split=data.split,
        utterances=len(transcripts),
        words=words,
        substitutions=sum(each.substitutions for each in transcripts),
        deletions=sum(each.deletions for each in transcripts),
        insertions=sum(each.insertions for each in transcripts),
        wer=errors / words,
        wer_interval=bootstrap_interval([each.errors for each in transcripts], [each.words for each in transcripts]),
        size_bits=subject.transmitted_bits,
        c_size=subject.transmitted_bits / subject.case.anchor.size_bits if subject.case else None,
        artifact_bytes=subject.artifact_bytes,
        audio_seconds=audio,
        compute_seconds=compute,
        real_time_factor=compute / audio,
        threads=threads,
        machine=machine_facts(),
    )


def _torcheval_wer(transcripts: Sequence[Transcript]) -> float:
    from torcheval.metrics import WordErrorRate

    metric = WordErrorRate()
    metric.update([each.hypothesis for each in transcripts], [each.reference for each in transcripts])
    return float(metric.compute())
