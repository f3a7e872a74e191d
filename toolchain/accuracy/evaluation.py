"""Accuracy runs: transcribe a test set, compute the WER, and write the result."""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.contract import Heard as DeviceTranscript
from device_runner.devices import Device
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts, package_versions, usable_cpus
from device_runner.jobs import make_task
from device_runner.transcripts import Timing, Transcript
from toolchain.accuracy.metrics import count_errors
from toolchain.accuracy.run_folder import RunFolder, earlier_settings, run_folder
from toolchain.accuracy.scoring import RESULT, Evaluation, make_evaluation, rescore
from toolchain.accuracy.transcriber import Transcriber, artifact_transcriber, as_transcriber, inexact
from toolchain.accuracy.workers import LocalWorkers, Split, Workers, measure_splits
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.data.splits import check_unseen

if TYPE_CHECKING:
    from toolchain.models.anchor_model import AnchorModel  # imports torch, which artifacts do without

SETTINGS_VERSION = 2
WORTH_MEASURING = 50  # utterances per core; with fewer, measuring costs more than it saves
TEST_SPLIT = "test-clean"

Progress = Callable[[Transcript, Timing], None]
logger = logging.getLogger("asrdeploy")


def evaluate(
    model: "Transcriber | AnchorModel | Artifact | str | int | Path",
    data: DataSet | str,
    folder: str | Path,
    *,
    workers: Workers | None = None,
    normalizer: str = "none",
    progress: Progress = lambda transcript, timing: None,
) -> Evaluation:
    """Transcribe a test set and compute the WER. An interrupted run resumes when it is called again.

    Every utterance is transcribed alone (batch size 1) and at its exact length. The folder gets ``transcripts.jsonl`` and ``times.jsonl``
    (one line per utterance), ``result.json`` and ``settings.json``. Transcripts of another model, test set or setting are replaced.

    Example:
        >>> asrdeploy.evaluate("artifacts/tiny", "digits", "results/tiny").wer  # doctest: +SKIP
        0.0255

    Args:
        model: A transcriber, a model, an artifact, or the name of either.
        data: The test set, or the name of a data set, of which test-clean is taken.
        folder: Output folder.
        workers: Where to transcribe (default: one worker on this machine). Transcripts do not depend on it.
        normalizer: Text normaliser of a second score, in addition to the scenario's; see ``scoring.score``.
        progress: Called for every utterance, those of an interrupted run first.

    Raises:
        AsrDeployError: Random weights, a test set that the model was tuned on, audio that cannot be read, or a folder that cannot be
            written or is used by another process.
    """
    transcriber = as_transcriber(model)
    chosen = open_data(data, TEST_SPLIT) if isinstance(data, str) else data
    check_trained(transcriber)
    check_unseen(transcriber.tuned_on, chosen, transcriber.configuration)
    workers = workers or LocalWorkers()
    with run_folder(Path(folder), _settings(transcriber, chosen), [each.id for each in chosen.utterances]) as run:
        for line in run.lines:
            progress(*line)
        result = _finished(run, transcriber, normalizer)
        if result is None:
            _transcribe(run, transcriber, chosen, workers, progress)
            facts = machine_facts() | workers.facts
            result = make_evaluation(
                *run.results,
                transcriber,
                chosen.name,
                chosen.split,
                threads=transcriber.threads,
                workers=workers.count,
                normalizer=normalizer,
                machine=facts,
            )
            run.finish(result)
    if transcriber.warning is not None:
        logger.warning(transcriber.warning)
    return result


def _transcribe(run: RunFolder, transcriber: Transcriber, data: DataSet, workers: Workers, progress: Progress) -> None:
    """Transcribe the utterances that the run folder does not have yet."""
    done = {transcript.id for transcript, _ in run.lines}
    # Closed at once if the run is stopped, so that started work ends too.
    with closing(workers.transcribe(transcriber, [each for each in data.utterances if each.id not in done])) as coming:
        for each in coming:
            line = _line(each.utterance, each.hypothesis, each.audio_seconds, each.compute_seconds)
            run.add(*line)
            progress(*line)


def evaluate_on_device(
    artifact: Artifact,
    data: DataSet,
    folder: Path,
    device: Device,
    *,
    threads: int,
    provider: str = "cpu",
    via: str | None = None,
    normalizer: str = "none",
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
        progress: Called for every utterance.

    Raises:
        AsrDeployError: See ``evaluate``; or the device failed.
    """
    transcriber = artifact_transcriber(artifact)
    check_trained(transcriber)
    check_unseen(transcriber.tuned_on, data, transcriber.configuration)
    utterances = {each.id: each for each in data.utterances}

    def line_of(line: DeviceTranscript) -> tuple[Transcript, Timing]:
        return _line(utterances[line.id], line.hypothesis, line.audio_seconds, line.compute_seconds)

    with run_folder(folder, _device_settings(transcriber, data, device.name, threads, provider, via), list(utterances)) as run:
        recordings = ((each.id, read_audio(each.path, transcriber.sample_rate)) for each in data.utterances)
        task = make_task(artifact, recordings, mode="accuracy", threads=threads, provider=provider)
        made = device.run(task, lambda line: progress(*line_of(line)) if isinstance(line, DeviceTranscript) else None)
        if [each.id for each in made.transcripts] != list(utterances):
            raise AsrDeployError(f"{device.name} returned transcripts of other utterances than it was given. Repeat the command.")
        for each in made.transcripts:
            run.add(*line_of(each))
        facts = made.device.model_dump() | {"versions": made.versions, "runner": made.runner, "commit": machine_facts()["commit"]}
        result = make_evaluation(
            *run.results, transcriber, data.name, data.split, threads=threads, workers=1, normalizer=normalizer, machine=facts
        )
        result = result.model_copy(update={"device": device.name, "kind": made.device.kind})
        run.finish(result)
    return _warned(result, artifact)


def finished_on_device(
    artifact: Artifact,
    data: DataSet,
    folder: Path,
    device: str,
    *,
    threads: int,
    provider: str = "cpu",
    via: str | None = None,
    normalizer: str = "none",
) -> Evaluation | None:
    """Return the result of an earlier ``evaluate_on_device`` with the same arguments; None if there is none.

    Raises:
        AsrDeployError: The folder contains something else.
    """
    if not (folder / RESULT).is_file():
        return None
    transcriber = artifact_transcriber(artifact)
    settings = _device_settings(transcriber, data, device, threads, provider, via)
    if earlier_settings(folder) != settings:  # run_folder would delete the other run, and the device may not be found later
        return None
    with run_folder(folder, settings, [each.id for each in data.utterances]) as run:
        result = _finished(run, transcriber, normalizer)
    return None if result is None else _warned(result, artifact)


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


def earlier_threads(transcriber: Transcriber, data: DataSet, folder: Path) -> int | None:
    """Return the number of threads of an earlier run of the same transcriber and test set; None if there is none."""
    earlier = earlier_settings(folder)
    same = bool(earlier) and earlier == _settings(transcriber, data) | {"threads": earlier.get("threads")}
    return int(earlier["threads"]) if same else None


def check_trained(transcriber: Transcriber) -> None:
    """Raise AsrDeployError for random weights, because their WER could be mistaken for a result."""
    if not transcriber.trained:
        raise AsrDeployError(
            f"{transcriber.configuration} has random weights, so its WER means nothing. Use trained weights, or measure latency with bench."
        )


def _settings(transcriber: Transcriber, data: DataSet) -> dict[str, Any]:
    """Return everything that the transcripts depend on. If it changes, a run starts from the beginning."""
    settings: dict[str, Any] = {
        "version": SETTINGS_VERSION,
        "identity": transcriber.identity,
        "data": data.digest,
        "threads": transcriber.threads,
    }
    if transcriber.engine is not None:
        settings["versions"] = package_versions()
        if transcriber.saturates:
            settings["int8_exact"] = machine_facts()["int8_exact"]
    if transcriber.torch_device != "cpu" or transcriber.half:
        settings |= {"torch_device": transcriber.torch_device, "half": transcriber.half}
    return settings


def _device_settings(transcriber: Transcriber, data: DataSet, device: str, threads: int, provider: str, via: str | None) -> dict[str, Any]:
    return _settings(transcriber, data) | {"threads": threads, "device": device, "provider": provider, "via": via}


def _finished(run: RunFolder, transcriber: Transcriber, normalizer: str) -> Evaluation | None:
    """Return the result of an earlier run, rescored if the normaliser changed; None if there is none."""
    result = run.earlier_result()
    if result is None or (result.configuration, result.identity) != (transcriber.configuration, transcriber.identity):
        return None
    if normalizer != (result.normalised.normalizer if result.normalised else "none"):
        return rescore(run.path, normalizer)
    return result


def _line(utterance: Utterance, hypothesis: str, audio_seconds: float, compute_seconds: float) -> tuple[Transcript, Timing]:
    counts = count_errors(utterance.reference, hypothesis)
    transcript = Transcript(
        id=utterance.id,
        audio_seconds=audio_seconds,
        reference=utterance.reference,
        hypothesis=hypothesis,
        substitutions=counts.substitutions,
        deletions=counts.deletions,
        insertions=counts.insertions,
        words=counts.words,
    )
    return transcript, Timing(id=utterance.id, compute_seconds=compute_seconds)
