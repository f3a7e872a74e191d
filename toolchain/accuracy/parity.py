"""Parity: run one artifact on several devices with the same utterances, and compare logits, best labels and WER. Times do not count."""

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
from toolchain.data.casing import upper
from toolchain.data.datasets import Utterance, open_data
from toolchain.models.test_cases import is_built_in

UTTERANCES = 16


@dataclass(frozen=True)
class DeviceParity:
    """Comparison of one device with the first.

    Args:
        device: Name of the device.
        kind: Kind of the device.
        relative: Norm of the difference of all logits, relative to the norm of the first device's logits.
        largest: Largest absolute difference of a logit.
        equal_arg_max: Share of frames with the same best label.
        wer: WER on the utterances, as a fraction.
        transcripts_equal: Number of utterances with the same transcript.
        utterances: Number of utterances.
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
    """Return the utterances for parity: 16 of the bundled test-clean, spread over its speakers."""
    utterances = open_data("digits", "test-clean").utterances
    return utterances[:: len(utterances) // UTTERANCES][:UTTERANCES]


def parity(
    artifact: Artifact, devices: Sequence[Device], *, threads: int = 1, say: Callable[[str], None] = lambda sentence: None
) -> list[DeviceParity]:
    """Compare devices with the first one.

    Args:
        artifact: Artifact that every device runs.
        devices: Devices, at least one.
        threads: Number of runtime threads.
        say: Called with the current step.

    Raises:
        AsrDeployError: There is no device, one fails, or logits have different shapes.
    """
    if not devices:
        raise AsrDeployError("There is no device to compare. Name at least one with --devices.")
    utterances = fixed_subset()
    results = []
    for device in devices:
        say(f"transcribing on {device.name}")
        results.append(_transcribed(artifact, device, utterances, threads))
    first = _logits(results[0], artifact, devices[0].name)
    found = []
    for device, result in zip(devices, results, strict=True):
        relative, largest, equal = distances(_logits(result, artifact, device.name), first)
        counts = [count_errors(upper(each.reference), line.hypothesis) for each, line in zip(utterances, result.transcripts, strict=True)]
        errors = sum(each.errors for each in counts)
        same = sum(ours.hypothesis == theirs.hypothesis for ours, theirs in zip(result.transcripts, results[0].transcripts, strict=True))
        wer = errors / sum(each.words for each in counts)
        found.append(DeviceParity(device.name, result.device.kind, relative, largest, equal, wer, same, len(utterances)))
    return found


def distance_to_torch(artifact: Artifact, device: Device, model: str | None, *, threads: int = 1, weights: str | None = None) -> float:
    """Return the relative distance between a device's logits and those of the fp32 model in PyTorch on this machine.

    Args:
        artifact: Artifact of the model, or of the model decompressed from a bitstream.
        device: Device that runs the artifact.
        model: Test case or custom model (default: the artifact's test case).
        threads: Number of threads of the device and of PyTorch.
        weights: Weights of the model; see ``load_model``.

    Raises:
        AsrDeployError: The artifact is of a custom model and ``model`` is missing, or the device fails.
    """
    from toolchain.accuracy.transcriber import open_transcriber

    if model is None and not is_built_in(artifact.manifest.model):
        raise AsrDeployError(
            f"Parity needs the fp32 weights of the custom model {artifact.manifest.model}, which an artifact does not contain. "
            "Use export instead of artifact in the job."
        )
    model = artifact.manifest.model if model is None else model
    reference = open_transcriber(model, weights=weights, threads=threads)
    assert reference.engine is not None  # the transcriber of a model has an engine
    utterances = fixed_subset()
    theirs = [reference.engine.logits(read_audio(each.path, reference.sample_rate)) for each in utterances]
    ours = _logits(_transcribed(artifact, device, utterances, threads), artifact, device.name)
    return distances(ours, theirs)[0]


def distances(ours: Sequence[Logits], theirs: Sequence[Logits]) -> tuple[float, float, float]:
    """Compare the logits of two runs over all utterances.

    Args:
        ours: Logits ``[frames, labels]`` of every utterance.
        theirs: Reference logits of the same shapes.

    Returns:
        Relative distance, largest absolute distance, and the share of frames with the same best label.

    Raises:
        AsrDeployError: The shapes differ.
    """
    if [each.shape for each in ours] != [each.shape for each in theirs]:
        raise AsrDeployError("The devices return logits of different shapes, so they do not run the same model. Use one artifact for all.")
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
        raise AsrDeployError(f"{name} returned logits that do not have {width} labels. Repeat the command.") from error
