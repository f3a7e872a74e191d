"""Accuracy runs: transcribe a test set, compute the WER, and write the result."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.contract import Heard as DeviceTranscript
from device_runner.devices import Device
from device_runner.errors import AsrDeployError, say_once
from device_runner.facts import machine_facts, package_versions, usable_cpus
from device_runner.files import unshared
from device_runner.jobs import make_task
from device_runner.transcripts import Timing, Transcript
from toolchain.accuracy.metrics import count_errors
from toolchain.accuracy.run_folder import INPUTS, RunFolder, earlier_place, earlier_settings, other_input, run_folder
from toolchain.accuracy.scoring import RESULT, Evaluation, make_evaluation, text_fields
from toolchain.accuracy.transcriber import Transcriber, artifact_transcriber, as_transcriber, inexact
from toolchain.accuracy.workers import LocalWorkers, Split, Workers, measure_splits
from toolchain.data.casing import DOTLESS_LANGUAGES, language_of, upper
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.data.recordings import Checked, OnChecked, check_recordings, check_unchanged
from toolchain.data.scripts import unprintable_warning
from toolchain.data.splits import check_unseen

if TYPE_CHECKING:
    from toolchain.models.anchor_model import AnchorModel  # imports torch, which artifacts do without

SETTINGS_VERSION = 3
WORTH_MEASURING = 50  # utterances per core; with fewer, measuring costs more than it saves

Progress = Callable[[Transcript, Timing], None]
logger = logging.getLogger("asrdeploy")


def evaluate(
    model: "Transcriber | AnchorModel | Artifact | str | int | Path",
    data: Checked | DataSet | str,
    folder: str | Path,
    *,
    workers: Workers | None = None,
    normalizer: str = "none",
    language: str | None = None,
    skip_bad: bool = False,
    replace: bool = False,
    progress: Progress = lambda transcript, timing: None,
) -> Evaluation:
    """Transcribe a test set and compute WER and CER. An interrupted run resumes when it is called again.

    Every utterance is transcribed alone (batch size 1) and at its exact length. The folder gets ``transcripts.jsonl`` and ``times.jsonl``
    (one line per utterance), ``result.json`` and ``settings.json``. All recordings are checked before the first one is transcribed.
    Transcripts stay as long as model and recording are the same; scores follow the references.

    Example:
        >>> asrdeploy.evaluate("artifacts/tiny", "digits", "results/tiny").wer  # doctest: +SKIP
        0.0255

    Args:
        model: A transcriber, a model, an artifact, or the name of either.
        data: The test set, whose recordings may have been checked already, or the name of a data set; see ``open_data``.
        folder: Output folder.
        workers: Where to transcribe (default: one worker on this machine). Transcripts do not depend on it.
        normalizer: Text normaliser of a second score, in addition to the scenario's; see ``scoring.score``.
        language: ISO 639 code of the language, which decides upper case and the main figure (default: the labels of the model).
        skip_bad: Leave recordings out that cannot be transcribed. The result lists them.
        replace: Delete the result of another model or test set in the folder, instead of raising an error.
        progress: Called for every utterance, those of an interrupted run first.

    Raises:
        AsrDeployError: Random weights, a test set that the model was tuned on, recordings that cannot be transcribed, or a folder that
            cannot be written, holds the result of another input, or is used by another process.
    """
    transcriber = as_transcriber(model)
    chosen = open_data(data) if isinstance(data, str) else data
    check_trained(transcriber)
    checked = checked_for(transcriber, chosen, skip_bad=skip_bad)
    language = language or language_of(transcriber.labels)
    workers = workers or LocalWorkers()
    settings = run_settings(transcriber, checked.data, language)
    with run_folder(Path(folder), settings, checked.digests, place=_place(checked), replace=replace) as run:
        _follow_references(run, checked.data, language)
        for line in run.lines:
            progress(*line)
        result = _finished(run, transcriber, checked.data, normalizer, language)
        if result is None:
            _transcribe(run, transcriber, checked, workers, progress, language)
            result = make_evaluation(
                *run.results,
                transcriber,
                checked.data,
                language=language,
                threads=transcriber.threads,
                workers=workers.count,
                normalizer=normalizer,
                machine=machine_facts() | workers.facts,
            )
            run.finish(result)
    _warn_of_characters(result)
    if transcriber.warning is not None:
        logger.warning(transcriber.warning)
    return result


def checked_for(
    transcriber: Transcriber, data: Checked | DataSet, *, skip_bad: bool = False, checked: OnChecked = lambda utterance: None
) -> Checked:
    """Return a test set whose recordings the transcriber can transcribe; see ``check_recordings``.

    Raises:
        AsrDeployError: See ``check_recordings``, or the transcriber was tuned on recordings of the set.
    """
    check_unseen(transcriber.tuned_on, data.data if isinstance(data, Checked) else data, transcriber.configuration)
    return data if isinstance(data, Checked) else check_recordings(data, transcriber.needs, skip_bad=skip_bad, checked=checked)


def _transcribe(
    run: RunFolder, transcriber: Transcriber, checked: Checked, workers: Workers, progress: Progress, language: str | None
) -> None:
    """Transcribe the utterances that the run folder does not have yet."""
    done = {transcript.id for transcript, _ in run.lines}
    # Closed at once if the run is stopped, so that started work ends too.
    with closing(workers.transcribe(transcriber, [each for each in checked.data.utterances if each.id not in done])) as coming:
        for each in coming:
            check_unchanged(each.utterance, checked.digests[each.utterance.id])
            line = _line(each.utterance, each.hypothesis, each.audio_seconds, each.compute_seconds, language)
            run.add(*line)
            progress(*line)


def evaluate_on_device(
    artifact: Artifact,
    data: Checked | DataSet,
    folder: Path,
    device: Device,
    *,
    threads: int,
    provider: str = "cpu",
    via: str | None = None,
    normalizer: str = "none",
    language: str | None = None,
    skip_bad: bool = False,
    replace: bool = False,
    progress: Progress = lambda transcript, timing: None,
) -> Evaluation:
    """Transcribe a test set on a device and compute the WER on this machine.

    The device keeps finished transcripts until the whole result has been fetched, so an interrupted run resumes.

    Args:
        artifact: Artifact that the device runs.
        data: The test set.
        folder: Output folder; see ``evaluate``.
        device: The device.
        threads: Number of runtime threads.
        provider: ONNX Runtime execution provider.
        via: How to run on a phone, ``app`` or ``shell``, as the user chose it.
        normalizer: See ``evaluate``.
        language: See ``evaluate``.
        skip_bad: See ``evaluate``.
        replace: See ``evaluate``.
        progress: Called for every utterance that was not transcribed by an earlier run.

    Raises:
        AsrDeployError: See ``evaluate``; or the device failed.
    """
    transcriber = artifact_transcriber(artifact)
    check_trained(transcriber)
    checked = checked_for(transcriber, data, skip_bad=skip_bad)
    language = language or language_of(transcriber.labels)
    utterances = {each.id: each for each in checked.data.utterances}

    def line_of(line: DeviceTranscript) -> tuple[Transcript, Timing]:
        return _line(utterances[line.id], line.hypothesis, line.audio_seconds, line.compute_seconds, language)

    settings = run_settings(transcriber, checked.data, language, threads=threads, device=device.name, provider=provider, via=via)
    with run_folder(folder, settings, checked.digests, place=_place(checked), replace=replace) as run:
        _follow_references(run, checked.data, language)
        done = {transcript.id for transcript, _ in run.lines}
        left = [each for each in utterances.values() if each.id not in done] or list(utterances.values())
        recordings = ((each.id, read_audio(each.path, transcriber.sample_rate, each.part)) for each in left)
        task = make_task(artifact, recordings, mode="accuracy", threads=threads, provider=provider)
        made = device.run(task, lambda line: progress(*line_of(line)) if isinstance(line, DeviceTranscript) else None)
        if [each.id for each in made.transcripts] != [each.id for each in left]:
            raise AsrDeployError(f"{device.name} returned transcripts of other utterances than it was given. Repeat the command.")
        for each in made.transcripts:
            check_unchanged(utterances[each.id], checked.digests[each.id])
            run.add(*line_of(each))
        facts = made.device.model_dump() | {"versions": made.versions, "runner": made.runner, "commit": machine_facts()["commit"]}
        result = make_evaluation(
            *run.results, transcriber, checked.data, language=language, threads=threads, workers=1, normalizer=normalizer, machine=facts
        )
        result = result.model_copy(update={"device": device.name, "kind": made.device.kind})
        run.finish(result)
    _warn_of_characters(result)
    return _warned(result, artifact)


def finished_on_device(
    artifact: Artifact,
    data: Checked,
    folder: Path,
    device: str,
    *,
    threads: int,
    provider: str = "cpu",
    via: str | None = None,
    normalizer: str = "none",
    language: str | None = None,
) -> Evaluation | None:
    """Return the result of an earlier ``evaluate_on_device`` with the same arguments; None if there is none.

    Raises:
        AsrDeployError: The folder contains something else.
    """
    if not (folder / RESULT).is_file():
        return None
    transcriber = artifact_transcriber(artifact)
    language = language or language_of(transcriber.labels)
    settings = run_settings(transcriber, data.data, language, threads=threads, device=device, provider=provider, via=via)
    if earlier_settings(folder) != settings:  # run_folder would refuse or delete the other run, and the device may not be found later
        return None
    with run_folder(folder, settings, data.digests) as run:
        _follow_references(run, data.data, language)
        result = _finished(run, transcriber, data.data, normalizer, language)
    if result is None:
        return None
    _warn_of_characters(result)
    return _warned(result, artifact)


def _warned(result: Evaluation, artifact: Artifact) -> Evaluation:
    """Log a warning if the device's processor saturates 8-bit products."""
    warning = inexact(artifact, exact=result.machine.get("int8_exact"))
    if warning is not None:
        logger.warning(warning)
    return result


def use_cores(transcriber: Transcriber, data: DataSet) -> tuple[Transcriber, LocalWorkers, list[Split]]:
    """Choose the number of workers and threads that is fastest on this machine.

    Small test sets are not measured: they get one worker per core, divided by the threads of the transcriber.

    Returns:
        The transcriber with the chosen threads, the workers, and the measured splits, fastest first.

    Raises:
        AsrDeployError: See ``Workers.transcribe``.
    """
    here = usable_cpus()
    if here == 1 or len(data.utterances) < WORTH_MEASURING * here:
        return transcriber, LocalWorkers(max(1, here // transcriber.threads)), []
    splits = measure_splits(transcriber, data.utterances, here)
    return transcriber.with_threads(splits[0].threads), LocalWorkers(splits[0].workers), splits


def earlier_threads(transcriber: Transcriber, data: DataSet, folder: Path, language: str | None = None) -> int | None:
    """Return the number of threads of an earlier run of the same transcriber and test set; None if there is none."""
    earlier = earlier_settings(folder)
    settings = run_settings(transcriber, data, language or language_of(transcriber.labels))
    same = bool(earlier) and earlier == settings | {"threads": earlier.get("threads")}
    return int(earlier["threads"]) if same else None


def default_folder(plain: Path, settings: dict[str, Any], checked: Checked) -> Path:
    """Return the folder for a run if the user names none: ``plain``, or one with a digest if another input has its result there.

    Args:
        plain: Folder named by model and data set.
        settings: Settings of the run; see ``run_settings``.
        checked: The test set. The digest depends on its place, so that it stays when recordings are added.
    """
    place = _place(checked)
    told = json.dumps([{key: settings.get(key) for key in INPUTS}, place])

    def same(path: Path) -> bool:
        return earlier_place(path) in (None, place) and other_input(path, settings, checked.digests) is None

    return unshared(plain, hashlib.sha256(told.encode()).hexdigest(), same)


def _place(checked: Checked) -> str:
    """Return a digest of the folder of the recordings."""
    place = os.path.commonpath([each.path.resolve().parent for each in checked.data.utterances])
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:16]


def check_trained(transcriber: Transcriber) -> None:
    """Raise AsrDeployError for random weights, because their WER could be mistaken for a result."""
    if not transcriber.trained:
        raise AsrDeployError(
            f"{transcriber.configuration} has random weights, so its WER means nothing. Use trained weights, or measure latency with bench."
        )


def run_settings(transcriber: Transcriber, data: DataSet, language: str | None, **on_device: object) -> dict[str, Any]:
    """Return everything that the transcripts depend on, except the recordings. If it changes, a run starts from the beginning.

    Args:
        transcriber: What transcribes.
        data: The test set.
        language: ISO 639 code; None if it is not known.
        on_device: Threads, device, execution provider and way to run, if a device runs the artifact.
    """
    settings: dict[str, Any] = {
        "version": SETTINGS_VERSION,
        "identity": transcriber.identity,
        "data": data.name,
        "split": data.split,
        "threads": transcriber.threads,
    }
    if language not in (None, *DOTLESS_LANGUAGES) and language_of(transcriber.labels) is not None:
        settings["language"] = language  # İ of the labels becomes I in the transcripts
    if transcriber.engine is not None:
        settings["versions"] = package_versions()
        if transcriber.saturates:
            settings["int8_exact"] = machine_facts()["int8_exact"]
    if transcriber.torch_device != "cpu" or transcriber.half:
        settings |= {"torch_device": transcriber.torch_device, "half": transcriber.half}
    if transcriber.windows is not None:
        settings |= {"window": transcriber.windows.window, "overlap": transcriber.windows.overlap}
    return settings | on_device


def _follow_references(run: RunFolder, data: DataSet, language: str | None) -> None:
    """Count the errors of earlier transcripts again if their references have changed."""
    references = {each.id: upper(each.reference, language) for each in data.utterances}
    changed = {}
    for transcript, _ in run.lines:
        if (reference := references[transcript.id]) != transcript.reference:
            counts = count_errors(reference, transcript.hypothesis)
            changed[transcript.id] = transcript.model_copy(update={"reference": reference} | asdict(counts))
    if changed:
        run.change(changed)


def _finished(run: RunFolder, transcriber: Transcriber, data: DataSet, normalizer: str, language: str | None) -> Evaluation | None:
    """Return the result of an earlier run, rescored if references or normaliser changed; None if there is none."""
    result = run.earlier_result()
    if result is None or (result.configuration, result.identity) != (transcriber.configuration, transcriber.identity):
        return None
    fields = text_fields(run.results[0], normalizer, language, transcriber.labels) | {"left_out": data.left_out}
    scored = Evaluation(**result.model_dump() | fields)  # not model_copy, which would not validate
    if scored != result:
        run.finish(scored)
    return scored


def _warn_of_characters(result: Evaluation) -> None:
    """Warn once in this process of characters that no label prints."""
    if result.unprintable:
        say_once(unprintable_warning(result.unprintable, result.characters, f"{result.data} {result.split}"))


def _line(
    utterance: Utterance, hypothesis: str, audio_seconds: float, compute_seconds: float, language: str | None
) -> tuple[Transcript, Timing]:
    reference, hypothesis = upper(utterance.reference, language), upper(hypothesis, language)
    transcript = Transcript(
        id=utterance.id,
        audio_seconds=audio_seconds,
        reference=reference,
        hypothesis=hypothesis,
        **asdict(count_errors(reference, hypothesis)),
    )
    return transcript, Timing(id=utterance.id, compute_seconds=compute_seconds)
