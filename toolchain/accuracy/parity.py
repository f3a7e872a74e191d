"""Parity: one artifact on several devices over the same few utterances: logits, best labels, word error rate; never times."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.contract import Result
from device_runner.devices import Device
from device_runner.engines import Logits
from device_runner.errors import AsrDeployError
from device_runner.jobs import make_task
from toolchain.accuracy.metrics import count_errors
from toolchain.data.datasets import Utterance, open_data
from toolchain.models.test_cases import case_of

UTTERANCES = 16


@dataclass(frozen=True)
class DeviceParity:
    """One device against the first.

    Args:
        device: its name.
        kind: what it is.
        relative: norm of the difference of all logits over the norm of the first device's.
        largest: largest absolute difference.
        equal_arg_max: share of frames with the same best label.
        wer: on the subset, as a fraction.
        transcripts_equal: how many of the utterances read the same.
        utterances: how many there are.
    """

    device: str
    kind: str
    relative: float
    largest: float
    equal_arg_max: float
    wer: float
    transcripts_equal: int
    utterances: int


def fixed_subset() -> tuple[Utterance, ...]:
    """Return the utterances that parity is judged on: bundled test-clean's, spread over its speakers."""
    utterances = open_data("digits", "test-clean").utterances
    return utterances[:: len(utterances) // UTTERANCES][:UTTERANCES]


def parity(
    artifact: Artifact, devices: Sequence[Device], *, threads: int = 1, say: Callable[[str], None] = lambda sentence: None
) -> list[DeviceParity]:
    """Compare devices with the first of them.

    Raises:
        AsrDeployError: no device, one that fails, or logits that do not fit.
    """
    if not devices:
        raise AsrDeployError("There is nothing to compare: name at least one device.")
    utterances = fixed_subset()
    results = []
    for device in devices:
        say(f"transcribing on {device.name}")
        results.append(_transcribed(artifact, device, utterances, threads))
    first = _logits(results[0], artifact, devices[0].name)
    found = []
    for device, result in zip(devices, results, strict=True):
        relative, largest, equal = distances(_logits(result, artifact, device.name), first)
        counts = [count_errors(each.reference, line.hypothesis) for each, line in zip(utterances, result.transcripts, strict=True)]
        errors = sum(each.errors for each in counts)
        same = sum(ours.hypothesis == theirs.hypothesis for ours, theirs in zip(result.transcripts, results[0].transcripts, strict=True))
        wer = errors / sum(each.words for each in counts)
        found.append(DeviceParity(device.name, result.device.kind, relative, largest, equal, wer, same, len(utterances)))
    return found


def distance_to_torch(artifact: Artifact, device: Device, model: str | None, *, threads: int = 1, weights: str | None = None) -> float:
    """Return the relative distance of a device's logits to those of the artifact's model in torch on this machine, in fp32.

    Args:
        artifact: of the model, or of a codec's reconstruction of it.
        device: where it runs.
        model: a test case's, or a custom one; None: the artifact's, of a test case.
        threads: of both.
        weights: of the model; None: its own.

    Raises:
        AsrDeployError: a custom model's artifact is given without the model, or the device fails.
    """
    from toolchain.accuracy.transcriber import open_transcriber

    if model is None and case_of(artifact.manifest).number is None:
        raise AsrDeployError(
            f"{artifact.manifest.model} is a custom model, whose fp32 an artifact does not hold: give export instead of artifact in the job."
        )
    model = artifact.manifest.model if model is None else model
    reference = open_transcriber(model, weights=weights, threads=threads)
    assert reference.engine is not None  # a model's transcriber has one
    utterances = fixed_subset()
    theirs = [reference.engine.logits(read_audio(each.path, reference.sample_rate)) for each in utterances]
    ours = _logits(_transcribed(artifact, device, utterances, threads), artifact, device.name)
    return distances(ours, theirs)[0]


def distances(ours: Sequence[Logits], theirs: Sequence[Logits]) -> tuple[float, float, float]:
    """Return relative and largest distance and the share of equal best labels of logits ``[frames, labels]``, utterance by utterance.

    Raises:
        AsrDeployError: they have other shapes.
    """
    if [each.shape for each in ours] != [each.shape for each in theirs]:
        raise AsrDeployError("The devices give logits of different shapes, so they do not run the same model.")
    a, b = (np.concatenate([each.astype(np.float64) for each in logits]) for logits in (ours, theirs))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)), float(np.abs(a - b).max()), float(np.mean(a.argmax(1) == b.argmax(1)))


def _transcribed(artifact: Artifact, device: Device, utterances: Sequence[Utterance], threads: int) -> Result:
    recordings = ((each.id, read_audio(each.path, artifact.manifest.sample_rate)) for each in utterances)
    return device.run(make_task(artifact, recordings, mode="accuracy", threads=threads, logits=True))


def _logits(result: Result, artifact: Artifact, name: str) -> list[npt.NDArray[np.float32]]:
    width = len(artifact.manifest.labels)
    try:
        return [np.frombuffer(base64.b64decode(each.logits or "", validate=True), "<f4").reshape(-1, width) for each in result.transcripts]
    except ValueError as error:
        raise AsrDeployError(f"{name} sent logits that are not {width} labels wide; run it again.") from error
